"""What is learned from samples over time, through `measure`."""

from dataclasses import fields, replace

import pytest
from headrace_operator.decide.bursts import Bursts
from headrace_operator.decide.forecast import Trend
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.signals import Signals, measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.turned_away import TurnedAway
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState
from observations import NOW, SLOTS, observed, pod, sample, scaling


def watch(
    speeds: list[float], *, waiting: int = 5, running: int = SLOTS, oldest: float = 1.0, ready_for: float = 900.0,
    history: History | None = None, pods: int = 1,
) -> tuple[History, Signals]:  # fmt: skip
    """Pods that compute `speeds` tokens/s, one interval of 2 s each."""
    history, tokens, now = history or History(), 0.0, NOW
    for index, speed in enumerate([0.0, *speeds]):
        now, tokens = NOW + 2.0 * index, tokens + 2.0 * speed
        seen = sample(at=now, waiting=waiting, running=running, oldest_waiting=oldest, tokens=tokens)
        ready = (replace(pod(ordinal), ready_at=NOW - ready_for, sample=seen) for ordinal in range(pods))
        history, signals = measure(Observed(tuple(ready)), history, now)
    return history, signals


def test_nothing_is_known_from_one_look() -> None:
    _, signals = watch([])
    assert (signals.arrivals, signals.throughput, signals.capacity, signals.demand) == (None,) * 4


def test_a_saturated_replica_teaches_its_capacity() -> None:
    assert watch([100.0])[1].capacity == 100


def test_a_replica_that_is_not_saturated_teaches_nothing() -> None:
    assert watch([100.0] * 8, waiting=0)[1].capacity is None


def test_a_queue_that_is_only_between_two_steps_teaches_nothing() -> None:
    assert watch([100.0] * 8, running=3, oldest=0.02)[1].capacity is None


def test_a_queue_that_waits_for_pages_teaches_although_slots_are_free() -> None:
    assert watch([100.0], running=3, oldest=2.0)[1].capacity == 100


def test_cold_pods_do_not_change_what_is_known() -> None:
    known = History(capacity=100.0)
    assert watch([10.0] * 2, ready_for=0.0, history=known)[1].capacity == 100


def test_a_new_speed_is_learned_step_by_step() -> None:
    known = History(capacity=100.0)
    assert watch([50.0], history=known)[1].capacity == pytest.approx(90)
    assert watch([50.0] * 20, history=known)[1].capacity == pytest.approx(50, rel=0.05)


def test_a_burst_of_cheap_tokens_is_no_capacity_but_a_sustained_speed_is() -> None:
    known = History(capacity=100.0)
    assert watch([400.0], waiting=0, history=known)[1].capacity == 100
    assert watch([0, 0, 0, 0, 0, 400.0], waiting=0, history=known)[1].capacity == 100
    assert watch([150.0] * 8, waiting=0, history=known)[1].capacity == pytest.approx(150)


def test_looking_twice_at_one_sample_teaches_once() -> None:
    history, _ = watch([50.0], history=History(capacity=100.0))
    seen = replace(pod(), sample=history.samples["uid-0"][-1])
    again, signals = measure(Observed((seen,)), history, NOW + 3)
    assert signals.capacity == pytest.approx(90)
    assert again.samples == history.samples


def test_looks_in_quick_succession_keep_the_window_whole() -> None:
    """Watch events make many ticks a second; the samples of a window must not crowd out its beginning."""
    history = History()
    for index in range(100):
        now = NOW + 0.1 * index
        history, signals = measure(Observed((replace(pod(), sample=sample(at=now, received=index)),)), history, now)
    assert len(history.samples["uid-0"]) < 25
    assert signals.arrivals == pytest.approx(10, rel=0.1)


def finished(requests: float, tokens: float, at: float) -> PodState:
    return replace(pod(), sample=sample(at=at, finished=requests, finished_tokens=tokens))


def test_work_per_request_is_the_mean_of_finished_ones_and_follows_a_new_mix() -> None:
    history, signals = History(), None
    requests = tokens = 0.0
    for index in range(100):
        requests, tokens = requests + 5, tokens + 5 * (10 if index < 50 else 40)
        now = NOW + 2 * index
        history, signals = measure(Observed((finished(requests, tokens, now),)), history, now)
        if index == 49:
            assert signals.work_per_request == pytest.approx(10)
    assert signals is not None
    assert signals.work_per_request == pytest.approx(40, rel=0.02)


def test_silent_pods_are_counted_as_asked_and_their_numbers_are_not_zero() -> None:
    speaking = replace(pod(0), sample=sample(waiting=3, running=2))
    silent = replace(pod(1), sample=None)
    _, signals = measure(Observed((speaking, silent)), History(), NOW)
    assert (signals.asked, signals.answered, signals.in_flight) == (2, 1, 5)


def test_a_draining_pod_still_carries_load_but_is_no_supply() -> None:
    draining = replace(pod(1), routable=False, sample=sample(running=7))
    _, signals = measure(Observed((pod(0), draining)), History(), NOW)
    assert (signals.asked, signals.running) == (1, 7)


def test_kv_pages_are_added_up_in_caches_of_a_replica() -> None:
    holding = (replace(pod(ordinal), sample=sample(at=NOW, kv_use=use)) for ordinal, use in enumerate((0.5, 0.75)))
    assert measure(Observed(tuple(holding)), History(), NOW)[1].kv_held == 1.25


def test_waits_measured_before_the_ready_pods_changed_say_nothing() -> None:
    def stuck(at: float) -> PodSample:
        return sample(at=at, waiting=50, oldest_waiting=30.0, received=50.0)

    history, signals = measure(Observed((replace(pod(0), sample=stuck(NOW)),)), History(), NOW)
    assert signals.typical_wait is not None
    assert signals.typical_wait > 20
    both = Observed((replace(pod(0), sample=sample(at=NOW + 2)), replace(pod(1), sample=sample(at=NOW + 2))))
    _, signals = measure(both, history, NOW + 2)
    assert (signals.ready_unchanged, signals.typical_wait) == (0.0, 0.0)


def start(history: History, phase: PodPhase, at: float, ready_at: float | None = None) -> History:
    seen = pod(0, phase, created_at=NOW, ready_at=ready_at, sample=None)
    return measure(Observed((seen,)), history, at)[0]


def test_the_ledger_times_a_start_once() -> None:
    history = start(History(), PodPhase.STARTING, NOW)
    history = start(history, PodPhase.READY, NOW + 42, ready_at=NOW + 41)
    assert history.startups == (41,)
    history = start(history, PodPhase.STARTING, NOW + 500)  # lost its readiness
    history = start(history, PodPhase.READY, NOW + 600, ready_at=NOW + 599)
    assert history.startups == (41,)


def test_a_pod_that_was_ready_before_this_operator_came_is_not_timed() -> None:
    history = start(History(), PodPhase.READY, NOW + 900, ready_at=NOW + 100)
    assert history.startups == ()


def test_what_left_the_window_or_the_cluster_is_forgotten() -> None:
    history, _ = watch([1.0] * 60)
    assert NOW + 120 - history.samples["uid-0"][0].at < 20
    history, _ = measure(Observed(()), history, NOW + 121)
    assert history.samples == {}


def test_a_restart_that_two_quick_looks_saw_counts_from_zero() -> None:
    """The sample in between is too close to learn from; the rates know of the new process all the same."""
    history, rates = History(), []
    for at, tokens in ((NOW, 5000.0), (NOW + 5, 5500.0), (NOW + 5.2, 20.0), (NOW + 10, 520.0)):
        seen = replace(pod(), sample=sample(at=at, tokens=tokens, received=tokens / 10))
        history, signals = measure(Observed((seen,)), history, at)
        rates.append(signals.throughput)
    assert rates == [None, 100.0, 100.0, 102.0]


def test_a_decision_and_a_look_change_each_their_own() -> None:
    """Of what is remembered, every field that is not theirs stays as it was."""
    known = History(
        samples={"uid-0": (sample(),)}, restarted_at=NOW - 1, desired=7, lowered_at=NOW - 50,
        recommendations=((NOW - 9, 9),), asked_lately=((NOW - 9, 2),), bursts=Bursts.restored(30.0, 10.0, NOW),
        trend=Trend(level=2.0), turned_away=TurnedAway(newest=1.0), silent_since=NOW - 2, busy_at=NOW - 3,
        has_served=True, capacity=100.0, work_per_request=10.0, ready_uids=frozenset({"a"}), ready_changed_at=NOW - 70,
        uids=frozenset({"a", "b"}), starting_uids=frozenset({"b"}), startups=(30.0,),
    )  # fmt: skip
    names = {field.name for field in fields(History)}
    assert [name for name in names if getattr(known, name) == getattr(History(), name)] == []

    def changed(after: History) -> set[str]:
        return {name for name in names if getattr(after, name) != getattr(known, name)}

    by_decisions = {"desired", "lowered_at", "recommendations", "asked_lately"}
    looked, seen = measure(observed(2), known, NOW + 5)
    decision = decide(look(scaling(), observed(2), seen, known, NOW + 5))
    assert changed(remembered(known, decision, NOW + 5)) <= by_decisions
    assert not changed(looked) & by_decisions
    assert {"startups", "capacity", "trend", "bursts"}.isdisjoint(changed(looked)), "nobody answered"
