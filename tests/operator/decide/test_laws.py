"""Laws that hold over any sequence of ticks, not only at one."""

import math
from dataclasses import replace

import pytest
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.signals import Signals, measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, SLOTS, observed, pod, sample, scaling, signals

TICK = 5.0  # seconds

loads = st.lists(st.floats(0, 40), min_size=1, max_size=60)  # in replicas at their target
windows = st.sampled_from([0.0, 10.0, 60.0, 300.0])


def followed(moments: list[tuple[float, Signals]], window: float, at_first: int) -> list[tuple[float, Decision]]:
    """The decisions of a system in which every replica is ready the moment it is ordered."""
    history, policy, decisions = History(desired=at_first), scaling(scale_down_window=window, max_replicas=60), []
    for now, seen in moments:
        ready = history.desired or 0
        decision = decide(look(policy, observed(ready), replace(seen, asked=ready, answered=ready), history, now))
        history = remembered(history, decision, now)
        decisions.append((now, decision))
    return decisions


def ticks(wanted: list[float]) -> list[tuple[float, Signals]]:
    """`wanted` replicas, tick by tick."""
    return [(NOW + TICK * index, signals(1, load=load)) for index, load in enumerate(wanted)]


@given(loads, windows, st.integers(1, 40))
def test_down_only_to_the_most_that_the_window_recommended(wanted: list[float], window: float, at_first: int) -> None:
    decisions = followed(ticks(wanted), window, at_first)
    for index, (now, decision) in enumerate(decisions):
        recent = [earlier.recommended for at, earlier in decisions[: index + 1] if at > now - window]
        assert decision.replicas >= min(decision.current, max(recent, default=0))


@given(loads, windows, st.integers(1, 40))
def test_up_at_once_to_everything_that_is_recommended(wanted: list[float], window: float, at_first: int) -> None:
    for _, decision in followed(ticks(wanted), window, at_first):
        assert decision.replicas >= decision.recommended >= 1


@given(st.lists(st.floats(7.0, 8.0), min_size=20, max_size=20), st.integers(1, 19), st.floats(0, 8.0))
def test_one_quiet_tick_never_changes_the_number(wanted: list[float], place: int, quiet: float) -> None:
    steady = [decision.replicas for _, decision in followed(ticks(wanted), 60.0, 8)]
    dipped = [
        decision.replicas for _, decision in followed(ticks([*wanted[:place], quiet, *wanted[place + 1 :]]), 60.0, 8)
    ]
    assert dipped == steady


@given(st.integers(1, 40), st.floats(1.001, 1.9))
def test_k_times_the_target_on_every_pod_needs_k_times_the_pods(ready: int, k: float) -> None:
    """From the pods' own counters: each of them receives k times what it carries at its target."""
    history = History(desired=ready, capacity=100.0, work_per_request=10.0)
    rate = k * 100.0 * 0.7 / 10.0  # requests/s and pod
    for index in range(8):
        now = NOW + 2.0 * index
        received, done = rate * 2.0 * index, min(rate, 10.0) * 2.0 * index  # requests
        load = sample(
            at=now, running=SLOTS // 2, received=received, finished=done, finished_tokens=10 * done, tokens=10 * done
        )  # fmt: skip
        pods = Observed(tuple(replace(pod(ordinal), sample=load) for ordinal in range(ready)))
        history, seen = measure(pods, history, now)
    decision = decide(look(scaling(max_replicas=1000), pods, seen, history, now))
    assert decision.replicas >= math.ceil(k * ready * 0.999)  # four digits of each number are known
    assert decision.replicas <= math.ceil(k * ready * 1.001)
    assert decision.reason is (Reason.LOAD_ROSE if decision.replicas > ready else Reason.STEADY)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(2, 5))
def test_cold_pods_do_not_move_what_a_replica_is_thought_to_carry(warm: int, cold: int, intervals: int) -> None:
    """New pods compute a tenth of what warm ones do, and all of them have a queue."""
    history = History(capacity=100.0)
    for index in range(intervals):
        now = NOW + index
        pods = []
        for ordinal in range(warm + cold):
            is_cold = ordinal >= warm
            tokens = (10.0 if is_cold else 100.0) * index
            load = sample(at=now, waiting=9, running=SLOTS, oldest_waiting=3.0, tokens=tokens)
            pods.append(replace(pod(ordinal), sample=load, ready_at=NOW - (0.5 if is_cold else 900.0)))
        history, seen = measure(Observed(tuple(pods)), history, now)
    assert seen.capacity == pytest.approx(100.0, rel=0.05)


@given(st.integers(1, 6), st.integers(0, 6), st.floats(0.0, 30.0))
def test_who_became_ready_a_moment_ago_is_not_missed(old: int, new: int, age: float) -> None:
    fresh = (replace(pod(old + n), sample=None, ready_at=NOW - age) for n in range(new))
    _, seen = measure(observed(old, *fresh), History(), NOW)
    assert seen.answered == old
    assert seen.asked == (old if age < 5.0 else old + new)
