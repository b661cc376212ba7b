import json
import math
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import record
from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.evidence import Evidence, Tally
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision, decide
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.status import MEASURED_PAUSE, RING, Tick, is_due, rounded, status
from headrace_operator.service import Mode
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, decided, deployment, observed, pod, recorded, scaling, signals


def tick(seen: Signals, *, ready: int = 4, now: float = NOW, history: History | None = None) -> Tick:
    return Tick(deployment(), "image:1", observed(ready), decided(ready, seen), history or History(), now)


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """As the API server stores it: in a merge patch, None removes a key."""
    return json.loads(json.dumps(_without_nothing(found)))


def _without_nothing(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_nothing(value) for key, value in found.items() if value is not None}
    return found


def test_a_reader_can_recompute_the_decision() -> None:
    last = status(tick(signals(4, load=1.9)), {})["lastDecision"]
    assert (last["from"], last["to"], last["reason"]) == (4, 8, "LoadRose")
    load, policy = last["inputs"]["load"], last["inputs"]["policy"]
    demand = float(load["arrivalsPerSecond"]) * float(load["tokensPerRequest"])
    assert math.ceil(demand / (float(load["capacityTokensPerSecond"]) * float(policy["utilization"]))) == last["to"]
    assert [(entry["signal"], entry["replicas"]) for entry in last["proposals"]] == [("work", 8)]
    assert decide(record.situation(last["inputs"])).message == last["message"]


def test_the_same_again_is_the_same_to_the_letter() -> None:
    first = kept(status(tick(signals(4, load=0.95), now=NOW), {}))
    again = kept(status(tick(signals(4, load=0.96, running=7), now=NOW + 2), first))
    assert again == first


def test_what_is_settled_is_not_written_again() -> None:
    first = kept(status(tick(signals(4, load=0.95), now=NOW), {}))
    assert not is_due(status(tick(signals(4, load=0.95), now=NOW + 2), first), first, NOW, NOW + 2)


def test_what_a_manifest_does_not_say_any_more_is_removed_once() -> None:
    first = {**kept(status(tick(signals(4, load=0.95), now=NOW), {})), "routers": 2}
    after = status(tick(signals(4, load=0.95), now=NOW + 2), first)
    assert after["routers"] is None
    assert "routers" not in status(tick(signals(4, load=0.95), now=NOW + 4), kept(after))


def test_a_trial_writes_no_status_at_every_tick() -> None:
    """Its requests grow all the time: what is told of them, in the rollout and in the condition, stays for a while."""

    def told(requests: float, before: dict[str, Any]) -> dict[str, Any]:
        evidence = Evidence(Tally(requests), Tally(requests), ready_since=NOW)
        trial = Progress(State.TRIAL, recorded().hash, "b", NOW, message=f"{requests} requests", evidence=evidence)
        seen = replace(observed(4), revisions=(recorded(),))
        return kept(status(replace(tick(signals(4, load=1.0)), observed=seen, progress=trial), before))

    first = told(100, {})
    assert told(119, first) == first
    grown = told(121, first)
    assert grown["rollout"]["message"] == "121 requests"
    (progressing,) = (entry for entry in grown["conditions"] if entry["type"] == "Progressing")
    assert progressing["message"].endswith("121 requests")


@pytest.mark.parametrize(
    ("wait", "shown"),
    [
        pytest.param(0.110, "100ms", id="a little more"),
        pytest.param(0.130, "130ms", id="notably more"),
        pytest.param(0.0, "0ms", id="none"),
        pytest.param(None, "unknown", id="unknown"),
    ],
)
def test_a_measured_number_moves_when_it_is_notable(wait: float | None, shown: str) -> None:
    first = status(tick(signals(4, load=1.0, queue_wait_p95=0.1)), {})
    assert status(tick(signals(4, load=1.0, queue_wait_p95=wait)), first)["queueWaitP95"] == shown


def test_zero_is_left_at_once() -> None:
    first = status(tick(signals(4, load=1.0, throughput=0.0)), {})
    assert first["tokensPerSecond"] == "0"
    assert status(tick(signals(4, load=1.0, throughput=3.0)), first)["tokensPerSecond"] == "3"


def test_a_decision_that_stands_is_told_anew_after_five_minutes() -> None:
    first = kept(status(tick(signals(4, load=0.95), now=NOW), {}))
    soon = kept(status(tick(signals(4, load=0.99), now=NOW + 299), first))
    later = kept(status(tick(signals(4, load=0.99), now=NOW + 300), soon))
    assert soon["lastDecision"] == first["lastDecision"]
    assert later["lastDecision"]["inputs"]["load"]["arrivalsPerSecond"] == "27.72"
    assert (later["lastDecision"]["at"], later["lastDecision"]["since"]) == (timestamp(NOW + 300), timestamp(NOW))


def test_an_edit_of_the_manifest_is_a_new_decision() -> None:
    first = kept(status(tick(signals(4, load=0.95), now=NOW), {}))
    edited = decided(4, signals(4, load=0.95), policy=scaling(max_replicas=50))
    second = kept(status(replace(tick(signals(4, load=0.95), now=NOW + 2), decision=edited), first))
    assert second["lastDecision"]["inputs"]["policy"]["maxReplicas"] == 50


def changed(number: int) -> Decision:
    decision = decided(4, signals(4, load=2.0))
    return replace(decision, current=number, replicas=number + 1)


def test_the_ring_keeps_the_last_ten_changes() -> None:
    found: dict[str, Any] = {}
    for number in range(15):
        now = replace(tick(signals(4, load=2.0), now=NOW + number), decision=changed(number))
        found = kept(status(now, found))
        found = kept(status(tick(signals(4, load=1.0), now=NOW + number + 0.5), found))  # changes nothing
    assert [entry["to"] for entry in found["decisions"]] == list(range(6, 16))
    assert len(found["decisions"]) == RING
    assert found["decisions"][-1]["at"] == timestamp(NOW + 14)
    assert (found["lastChange"]["from"], found["lastChange"]["to"]) == (14, 15)
    assert found["lastDecision"]["reason"] == "Steady"


def test_what_shadow_would_do_is_told_once_and_not_at_every_tick() -> None:
    would = decided(2, signals(2, load=3.0), policy=scaling(mode=Mode.SHADOW))
    found: dict[str, Any] = {}
    for second in range(3):
        found = kept(status(replace(tick(signals(2), ready=2, now=NOW + second), decision=would), found))
    assert [(entry["from"], entry["to"]) for entry in found["decisions"]] == [(2, 7)]
    assert found["desiredReplicas"] == 7


def test_what_was_learned_survives_a_restart() -> None:
    learned = History(capacity=123.4, work_per_request=56.7, startups=(3.0, 4.0), desired=4)
    restored = History.restored(kept(status(tick(signals(4, load=1.0), history=learned), {})), 9, NOW)
    assert restored.capacity == pytest.approx(123.4, rel=0.01)
    assert restored.work_per_request == pytest.approx(56.7, rel=0.01)
    assert restored.startup_quantile(0.95) == 4.0
    assert (restored.desired, restored.recommendations) == (4, ((NOW, 4),))


def test_an_operator_without_a_status_begins_with_the_pods_it_finds() -> None:
    assert History.restored({}, 5, NOW) == History(desired=5, recommendations=((NOW, 5),), ready_changed_at=NOW)


def test_draining_pods_are_no_replicas() -> None:
    drains = pod(9, routable=False, unrouted_at=NOW)
    found = status(replace(tick(signals(4, load=1.0)), observed=observed(4, drains)), {})
    assert (found["replicas"], found["readyReplicas"], found["desiredReplicas"]) == (4, 4, 4)
    assert found["selector"] == "headrace.dev/deployment=llama"


@given(st.just(0.0) | st.floats(0.001, 1e12))
def test_three_digits_are_near_enough(value: float) -> None:
    assert float(rounded(value)) == pytest.approx(value, rel=0.006)
    assert "e" not in rounded(value)


@pytest.mark.parametrize(
    ("change", "waits"),
    [
        ({"tokensPerSecond": "150", "queueWaitP95": "7ms", "capacity": {"tokensPerSecondPerReplica": "90"}}, True),
        ({"tokensPerSecond": "unknown"}, False),
        ({"readyReplicas": 3}, False),
        ({"tokensPerSecond": "150", "conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"lastDecision": {"reason": "LoadRose"}}, False),
    ],
)
def test_a_fact_is_written_at_once_and_a_measured_number_with_the_next(change: dict[str, Any], waits: bool) -> None:
    before = {"readyReplicas": 4, "tokensPerSecond": "100", "queueWaitP95": "5ms", "capacity": {}, "conditions": []}
    after = {**before, **change}
    soon, later = NOW + MEASURED_PAUSE - 1, NOW + MEASURED_PAUSE
    assert is_due(after, before, NOW, soon) is not waits
    assert is_due(after, before, NOW, later)
    assert not is_due(before, before, NOW, later)


def test_the_first_status_is_written_at_once() -> None:
    assert is_due(status(tick(signals(4)), {}), {}, NOW, NOW)
