import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.status import RING, Tick, rounded, status
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, decided, deployment, observed, pod, signals


def tick(seen: Signals, *, ready: int = 4, now: float = NOW, history: History | None = None) -> Tick:
    return Tick(deployment(), "image:1", observed(ready), decided(ready, seen), history or History(), now)


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """As the API server stores it."""
    return json.loads(json.dumps(found))


def test_a_reader_can_recompute_the_decision() -> None:
    last = status(tick(signals(4, load=1.9)), {})["lastDecision"]
    assert (last["from"], last["to"], last["reason"]) == (4, 8, "LoadRose")
    demand, capacity = (float(last["inputs"][f"{name}TokensPerSecond"]) for name in ("demand", "capacity"))
    assert -(-demand // (capacity * 0.7)) == last["to"]
    assert [(entry["signal"], entry["replicas"]) for entry in last["proposals"]] == [("work", 8)]


def test_the_same_again_is_the_same_to_the_letter() -> None:
    first = kept(status(tick(signals(4, load=0.95), now=NOW), {}))
    again = kept(status(tick(signals(4, load=0.96, running=7), now=NOW + 2), first))
    assert again == first


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


def changed(number: int) -> Decision:
    return replace(decided(4, signals(4, load=2.0)), current=number, replicas=number + 1)


def test_the_ring_keeps_the_last_ten_changes() -> None:
    found: dict[str, Any] = {}
    for number in range(15):
        now = replace(tick(signals(4, load=2.0), now=NOW + number), decision=changed(number))
        found = kept(status(now, found))
        found = kept(status(tick(signals(4, load=1.0), now=NOW + number + 0.5), found))  # changes nothing
    assert [entry["to"] for entry in found["decisions"]] == list(range(6, 16))
    assert len(found["decisions"]) == RING
    assert found["decisions"][-1]["at"] == timestamp(NOW + 14)


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
