"""Who decides: the autoscaler, spec.replicas, nobody, or the manifest's number for times without metrics."""

from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import Situation, look
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import Mode
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, observed, pod, scaling, signals

BUSY = signals(4, load=3.0)
SILENT = signals(4, answered=0, arrivals=None, max_running=0)


def situation(seen: Any = BUSY, *, ready: int = 4, desired: int | None = None, **policy: Any) -> Situation:
    history = History(desired=ready if desired is None else desired)
    return look(scaling(**policy), observed(ready), seen, history, NOW)


@pytest.mark.parametrize(
    ("policy", "replicas", "reason", "says"),
    [
        pytest.param({"replicas": 6}, 6, Reason.EXTERNAL, "4 -> 6 replicas: spec.replicas is 6", id="up"),
        pytest.param({"replicas": 1}, 1, Reason.EXTERNAL, "4 -> 1 replicas: spec.replicas is 1", id="down, at once"),
        pytest.param({"replicas": 4}, 4, Reason.EXTERNAL, "4 replicas: spec.replicas is 4", id="as it is"),
        pytest.param({"replicas": None}, 4, Reason.EXTERNAL, "4 replicas: spec.replicas is not set", id="not set"),
        pytest.param(
            {"replicas": 9, "max_replicas": 5}, 5, Reason.EXTERNAL, "spec.replicas is 9", id="above the maximum"
        ),
        pytest.param({"replicas": 9, "max_replicas": 4}, 4, Reason.AT_MAXIMUM, "maxReplicas is 4", id="at the maximum"),
        pytest.param(
            {"replicas": 0, "min_replicas": 2}, 2, Reason.EXTERNAL, "spec.replicas is 0", id="below the minimum"
        ),
    ],
)
def test_external_decides_within_the_bounds(policy: dict[str, Any], replicas: int, reason: Reason, says: str) -> None:
    decision = decide(situation(mode=Mode.EXTERNAL, **policy))
    assert (decision.replicas, decision.reason) == (replicas, reason)
    assert says in decision.message


def test_external_needs_no_metrics_and_fears_no_full_cluster() -> None:
    """Whoever sets the number sees the pods that wait, and a cluster autoscaler needs to see them."""
    stuck = pod(4, PodPhase.UNSCHEDULABLE, message="Insufficient nvidia.com/gpu", sample=None)
    policy = scaling(mode=Mode.EXTERNAL, replicas=8)
    assert decide(look(policy, observed(4, stuck), SILENT, History(desired=5), NOW)).replicas == 8


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.SHADOW, Mode.PAUSED])
@given(told=st.integers(1, 90))
def test_nobody_else_moves_a_replica_through_spec_replicas(mode: Mode, told: int) -> None:
    assert decide(situation(mode=mode, replicas=told)).replicas == decide(situation(mode=mode)).replicas


def test_shadow_decides_on_what_runs_whatever_it_would_have_ordered_before() -> None:
    decision = decide(situation(mode=Mode.SHADOW, desired=9))
    assert (decision.current, decision.reason) == (4, Reason.LOAD_ROSE)
    assert decision.replicas == decide(situation(mode=Mode.AUTO)).replicas


def ticks(number: int, seen: Any, history: History, **policy: Any) -> tuple[list[Decision], History]:
    decisions = []
    for index in range(number):
        now = NOW + 2.0 * index
        decision = decide(look(scaling(**policy), observed(4), seen, history, now))
        history = remembered(history, decision, now)
        decisions.append(decision)
    return decisions, history


def test_shadow_stays_with_what_it_would_have_ordered() -> None:
    would, history = ticks(3, BUSY, History(desired=4), mode=Mode.SHADOW)
    after, _ = ticks(3, signals(4, load=1.0), history, mode=Mode.SHADOW)
    assert {decision.replicas for decision in would + after} == {would[0].replicas}
    assert after[-1].reason is Reason.HOLDING_FOR_WINDOW


def test_below_the_minimum_shadow_says_so_at_every_tick() -> None:
    decisions, _ = ticks(3, signals(4, load=1.0), History(desired=4), mode=Mode.SHADOW, min_replicas=6)
    assert [(decision.replicas, decision.reason) for decision in decisions] == [(6, Reason.BELOW_MINIMUM)] * 3


def test_a_change_of_mode_takes_effect_at_the_next_tick() -> None:
    _, history = ticks(3, BUSY, History(desired=4), mode=Mode.SHADOW)
    assert history.desired == 4
    [paused], history = ticks(1, BUSY, history, mode=Mode.PAUSED)
    assert (paused.replicas, paused.reason) == (4, Reason.PAUSED)
    [auto], history = ticks(1, BUSY, history, mode=Mode.AUTO)
    assert (auto.current, auto.reason) == (4, Reason.LOAD_ROSE)
    [external], _ = ticks(1, BUSY, history, mode=Mode.EXTERNAL, replicas=2)
    assert (external.replicas, external.reason) == (2, Reason.EXTERNAL)


def silent(seconds: float, **policy: Any) -> Situation:
    return replace(situation(SILENT, metrics_hold=120.0, **policy), silent_for=seconds)


@pytest.mark.parametrize(
    ("seen", "replicas", "reason"),
    [
        pytest.param(silent(120.0, metrics_fallback=8), 4, Reason.METRICS_MISSING, id="held at first"),
        pytest.param(silent(121.0, metrics_fallback=8), 8, Reason.METRICS_FALLBACK, id="then more"),
        pytest.param(silent(121.0, metrics_fallback=2), 2, Reason.METRICS_FALLBACK, id="then fewer"),
        pytest.param(silent(121.0, metrics_fallback=4), 4, Reason.METRICS_FALLBACK, id="the same number"),
        pytest.param(silent(121.0, metrics_fallback=8, max_replicas=6), 6, Reason.METRICS_FALLBACK, id="in the bounds"),
        pytest.param(silent(9999.0), 4, Reason.METRICS_MISSING, id="held for ever when the manifest gives no number"),
        pytest.param(
            silent(121.0, metrics_fallback=8, mode=Mode.PAUSED), 4, Reason.PAUSED, id="paused is paused, metrics or not"
        ),
    ],
)
def test_without_metrics(seen: Situation, replicas: int, reason: Reason) -> None:
    decision = decide(seen)
    assert (decision.replicas, decision.reason) == (replicas, reason)


def test_the_fallback_says_how_long_nobody_answered() -> None:
    assert decide(silent(130.0, metrics_fallback=8)).message == (
        "4 -> 8 replicas: no pod has answered for 130 s, longer than metricsHold, and metricsFallback is 8"
    )


@given(
    st.integers(1, 20), st.integers(0, 20), st.floats(0, 1000), st.none() | st.integers(1, 50), st.sampled_from(Mode)
)
def test_no_mode_leaves_the_bounds(least: int, more: int, seconds: float, number: int | None, mode: Mode) -> None:
    seen = silent(
        seconds, min_replicas=least, max_replicas=least + more, metrics_fallback=number, replicas=number, mode=mode
    )
    assert least <= decide(seen).replicas <= least + more


# The scheduler has no place.


def waiting(ordinal: int, seconds: float) -> Any:
    return pod(
        ordinal, PodPhase.UNSCHEDULABLE, message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", sample=None,
        created_at=NOW - seconds, unschedulable_since=NOW - seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "supply", "reason"),
    [
        pytest.param(10.0, (2, 1, 0), Reason.LOAD_ROSE, id="for a moment: a pod that starts"),
        pytest.param(60.0, (2, 0, 1), Reason.INSUFFICIENT_GPU, id="for unschedulableAfter: no supply"),
    ],
)
def test_a_pod_without_a_place(seconds: float, supply: tuple[int, int, int], reason: Reason) -> None:
    seen = look(scaling(), observed(2, waiting(2, seconds)), signals(2, load=4.0), History(desired=3), NOW)
    assert (seen.supply.ready, len(seen.supply.starting), seen.supply.without_gpu.pods) == supply
    assert decide(seen).reason is reason


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0, 20), st.floats(60, 5000))
def test_a_full_cluster_stops_orders_and_nothing_else(ready: int, stuck: int, load: float, seconds: float) -> None:
    others = tuple(waiting(ready + n, seconds) for n in range(stuck))
    history = History(desired=ready + stuck)
    full = decide(look(scaling(), observed(ready, *others), signals(ready, load=load), history, NOW))
    free = decide(look(scaling(), observed(ready), signals(ready, load=load), history, NOW))
    assert full.replicas <= ready + stuck
    if free.replicas < ready + stuck:
        assert full.replicas == free.replicas


def test_the_seconds_without_any_answer_are_counted() -> None:
    silent = Observed(tuple(pod(ordinal, sample=None) for ordinal in range(4)))
    history, _ = measure(silent, History(), NOW - 50)
    history, seen = measure(silent, history, NOW)
    assert look(scaling(), silent, seen, history, NOW).silent_for == 50
    history, seen = measure(observed(4), history, NOW)
    assert look(scaling(), observed(4), seen, history, NOW).silent_for == 0
