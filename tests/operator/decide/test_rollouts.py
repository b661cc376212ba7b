"""Where a rollout stands: every step of the state machine, and that a restart at any step changes nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import revisions
from headrace_operator.decide.actions import Announce
from headrace_operator.decide.conditions import epoch, timestamp
from headrace_operator.decide.evidence import Evidence, Score, Tally
from headrace_operator.decide.progress import progressing
from headrace_operator.decide.reasons import Announcement, Verdict
from headrace_operator.decide.reasons import Progress as Reason
from headrace_operator.decide.rollout_news import news
from headrace_operator.decide.rollout_record import as_status, restored
from headrace_operator.decide.rollouts import Progress, State, advance
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import Batching, Canary, InferenceDeployment, Mode, Rollout, Strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import NOW, deployment, pod, recorded, sample, scaling

POLICY = Canary(min_samples=50, min_duration=60.0, deadline=600.0)
CANARY = Rollout(Strategy.CANARY, POLICY)
OLD = deployment(rollout=CANARY)
NEW = deployment(rollout=CANARY, batching=Batching(8, 2048, 1024))
THIRD = deployment(rollout=CANARY, batching=Batching(9, 2048, 1024))
A, B, C = (revisions.asked(given) for given in (OLD, NEW, THIRD))
RECORDS = tuple(recorded(given, number=n) for n, given in enumerate((OLD, NEW, THIRD)))
ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
Told = dict[str, Any]


def old(ordinal: int = 0, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=A, **changes)


def new(ordinal: int = 5, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=B, **changes)


def seen(*pods: PodState) -> Observed:
    return Observed(pods, RECORDS)


def rolling(given: InferenceDeployment) -> InferenceDeployment:
    return replace(given, rollout=Rollout(Strategy.ROLLING))


def in_state(state: State, stable: str = A, updated: str = B, **changes: Any) -> Progress:
    return Progress(state, stable, updated, NOW - 100.0, **changes)


TRIAL = in_state(State.TRIAL, verdict=Verdict.EVIDENCE_MISSING)
BACK = in_state(State.ROLLED_BACK, verdict=Verdict.QUALITY_WORSE)


@pytest.mark.parametrize(
    ("before", "asked", "pods", "after"),
    [
        pytest.param(None, OLD, [], (State.BASELINE, A, A), id="a new deployment"),
        pytest.param(None, NEW, [old()], (State.TRIAL, A, B), id="a status that was lost: what serves is stable"),
        pytest.param(in_state(State.BASELINE, A, A), OLD, [old()], (State.BASELINE, A, A), id="nothing happened"),
        pytest.param(in_state(State.BASELINE, A, A), NEW, [old()], (State.TRIAL, A, B), id="an edit starts a trial"),
        pytest.param(
            in_state(State.BASELINE, A, A),
            rolling(NEW),
            [old()],
            (State.PROMOTING, A, B),
            id="with strategy Rolling it rolls",
        ),
        pytest.param(
            in_state(State.BASELINE, A, A),
            NEW,
            [old(0, PodPhase.CRASH_LOOPING)],
            (State.PROMOTING, A, B),
            id="where nothing serves there is nothing to compare with",
        ),
        pytest.param(TRIAL, NEW, [old(), new()], (State.TRIAL, A, B), id="too little is known yet"),
        pytest.param(
            TRIAL, NEW, [old(), new(5, PodPhase.MODEL_REFUSED)], (State.ROLLED_BACK, A, B), id="the canary is broken"
        ),
        pytest.param(TRIAL, THIRD, [old(), new()], (State.TRIAL, A, C), id="another edit starts another trial"),
        pytest.param(TRIAL, OLD, [old(), new()], (State.PROMOTING, A, A), id="the edit is taken back"),
        pytest.param(TRIAL, rolling(NEW), [old(), new()], (State.PROMOTING, A, B), id="a person cuts the trial short"),
        pytest.param(BACK, NEW, [old()], (State.ROLLED_BACK, A, B), id="the manifest still says what failed"),
        pytest.param(BACK, THIRD, [old()], (State.TRIAL, A, C), id="a further edit is tried against what serves"),
        pytest.param(BACK, OLD, [old()], (State.BASELINE, A, A), id="back to the old template"),
        pytest.param(BACK, rolling(NEW), [old()], (State.PROMOTING, A, B), id="a person insists"),
        pytest.param(
            in_state(State.PROMOTING), NEW, [old(), new()], (State.PROMOTING, A, B), id="an old pod is still there"
        ),
        pytest.param(
            in_state(State.PROMOTING), NEW, [new(5, PodPhase.LOADING)], (State.PROMOTING, A, B), id="nothing serves yet"
        ),
        pytest.param(
            in_state(State.PROMOTING),
            NEW,
            [new(), old(0, PodPhase.READY, role=Role.STANDBY, routable=False)],
            (State.PROMOTING, A, B),
            id="a standby is old",
        ),
        pytest.param(in_state(State.PROMOTING), NEW, [new()], (State.BASELINE, B, B), id="complete"),
        pytest.param(
            in_state(State.PROMOTING),
            THIRD,
            [old(), new()],
            (State.TRIAL, A, C),
            id="an edit in the middle: stable is what was stable",
        ),
    ],
)
def test_the_states(
    before: Progress | None, asked: InferenceDeployment, pods: Sequence[PodState], after: tuple[State, str, str]
) -> None:
    found = advance(asked, seen(*pods), before, (), NOW, full=False)
    assert (found.state, found.stable, found.updated) == after


def test_in_shadow_nothing_moves() -> None:
    shadow = replace(NEW, scaling=scaling(mode=Mode.SHADOW))
    before = in_state(State.BASELINE, A, A)
    assert advance(shadow, seen(old()), before, (), NOW, full=False) == before


def test_a_canary_without_room_is_remembered_and_one_that_fits_nowhere_is_not() -> None:
    found = advance(NEW, seen(old(), new(5, PodPhase.UNSCHEDULABLE, message=ROOM)), TRIAL, (), NOW, full=False)
    assert not found.surge
    assert not advance(
        NEW, seen(old(), new(5, PodPhase.LOADING)), found, (), NOW, full=False
    ).surge  # it came in by that
    nowhere = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    assert advance(NEW, seen(old(), new(5, PodPhase.UNSCHEDULABLE, message=nowhere)), TRIAL, (), NOW, full=False).surge


def works(at: float, finished: float, **changes: Any) -> Any:
    """A sample of a pod that has finished so many requests."""
    usual = {
        "received": finished, "finished": finished, "tokens": 10 * finished, "token_gaps": 9 * finished,
        "token_gap_seconds": 0.9 * finished, "queue_waits": ((0.1, finished), (float("inf"), finished)),
    }  # fmt: skip
    return sample(at, **{**usual, **changes})


class Trial:
    """A trial, tick by tick: each side finishes `rate` requests a second."""

    def __init__(self, rate: float = 2.0, *, failing: bool = False, restart_every: int | None = None) -> None:
        self.rate, self.failing, self.restart_every = rate, failing, restart_every
        self.progress: Progress | None = in_state(State.BASELINE, A, A)
        self.told: Told = {}
        self.now = NOW
        self.ticks = 0

    def tick(self) -> Progress:
        done = self.rate * (self.now - NOW) + 1000.0
        bad = {"failed": done} if self.failing else {}
        pods = seen(old(sample=works(self.now, done)), new(sample=works(self.now, done, **bad)))
        if self.restart_every and self.ticks % self.restart_every == 0:
            self.progress = restored(self.told) or self.progress
        self.progress = advance(NEW, pods, self.progress, (), self.now, full=False)
        self.told = json.loads(json.dumps(as_status(NEW, self.progress, self.told)))
        self.now += 2.0
        self.ticks += 1
        return self.progress

    def run(self, seconds: float) -> Progress:
        for _ in range(int(seconds / 2)):
            progress = self.tick()
            if progress.state is not State.TRIAL:
                break
        return progress


def test_a_good_canary_is_promoted_after_its_time() -> None:
    trial = Trial()
    assert trial.run(58).state is State.TRIAL
    ended = trial.run(10)
    assert (ended.state, ended.verdict) == (State.PROMOTING, Verdict.ALL_GATES_PASSED)
    assert ended.evidence.canary.requests == pytest.approx(2.0 * (trial.now - NOW), abs=10.0)  # but for the first looks


def test_a_failing_canary_goes_back_when_that_is_believable() -> None:
    trial = Trial(failing=True)
    ended = trial.run(300)
    assert (ended.state, ended.verdict) == (State.ROLLED_BACK, Verdict.ERROR_RATE_WORSE)
    assert trial.now - NOW < 60


def test_a_canary_without_requests_goes_back_at_the_deadline() -> None:
    trial = Trial(rate=0.0)
    ended = trial.run(1000)
    assert (ended.state, ended.verdict) == (State.ROLLED_BACK, Verdict.DEADLINE_PASSED)
    assert trial.now - NOW == pytest.approx(POLICY.deadline, abs=4.0)


@pytest.mark.parametrize("every", [1, 3, 7, 20])
@pytest.mark.parametrize("failing", [False, True])
def test_restarts_lead_to_the_same_end(every: int, failing: bool) -> None:
    """Even an operator that never lives for two ticks: what it learns within one tick is then all it has."""
    through = Trial(failing=failing).run(2000)
    interrupted = Trial(failing=failing, restart_every=every).run(2000)
    if every == 1:  # a counter seen once has no increase: nothing is known, and so nothing is promoted
        assert (interrupted.state, interrupted.verdict) == (State.ROLLED_BACK, Verdict.DEADLINE_PASSED)
    else:
        assert (interrupted.state, interrupted.verdict) == (through.state, through.verdict)


def test_a_restarted_container_counts_from_zero_again() -> None:
    pods = [old(sample=works(NOW, 500)), new(sample=works(NOW, 500))]
    later = [old(sample=works(NOW + 2, 510)), new(sample=works(NOW + 2, 4))]
    evidence = Evidence().gathered(pods[:1], pods[1:], ()).gathered(later[:1], later[1:], ())
    assert (evidence.stable.requests, evidence.canary.requests) == (10, 4)
    assert evidence.canary.queue_wait_p95 is not None


def test_a_pod_that_is_silent_for_a_while_loses_nothing() -> None:
    first, silent, later = (old(sample=works(NOW, 500)), old(sample=None), old(sample=works(NOW + 4, 520)))
    evidence = Evidence()
    for state in (first, silent, later):
        evidence = evidence.gathered([state], [new()], ())
    assert evidence.stable.requests == 20


def test_a_score_is_kept_as_it_was_first() -> None:
    first, second = Score("a", -1.0, -1.1), Score("a", -9.0, -9.0)
    assert Evidence().gathered([], [], [first]).gathered([], [], [second]).scores == (first,)


numbers = st.floats(0, 1e6).map(lambda value: float(f"{value:.4g}"))
counts = st.integers(0, 10**6).map(float)
waits = st.just(((0.1, 3.0), (float("inf"), 5.0)))
tallies = st.builds(Tally, counts, counts, counts, numbers, waits)
evidences = st.builds(
    Evidence, tallies, tallies, st.just((Score("0a", -1.25, -1.5),)), st.none() | st.integers(0, 10**9).map(float)
)


@settings(deadline=None)
@given(st.sampled_from(State), st.sampled_from(Verdict), st.booleans(), evidences)
def test_what_status_tells_is_what_the_next_operator_knows(
    state: State, verdict: Verdict, surge: bool, evidence: Evidence
) -> None:
    progress = in_state(state, verdict=verdict, message="why", surge=surge, evidence=evidence)
    assert restored(json.loads(json.dumps(as_status(NEW, progress, {})))) == progress


def test_a_trial_is_told_anew_only_when_its_requests_have_grown_by_a_fifth() -> None:
    def told(requests: float, before: Told) -> Told:
        return as_status(NEW, replace(TRIAL, evidence=Evidence(Tally(100), Tally(requests))), before)

    first = told(10, {})
    assert told(12, first) == first
    assert told(13, first)["evidence"]["canary"]["requests"] == 13


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 3)), min_size=1, unique_by=lambda entry: entry[0]))
@settings(deadline=None)
def test_waits_are_told_short_and_whole(buckets: list[tuple[float, int]]) -> None:
    """With many empty buckets the p95 is the same, and what comes after a restart is counted into the same places."""
    counted, total = [], 0.0
    for bound, count in sorted(buckets):
        total += count
        counted.append((float(f"{bound:.4g}"), total))
    full = Tally(total, queue_waits=(*dict(counted).items(), (float("inf"), total)))
    told = as_status(NEW, replace(TRIAL, evidence=Evidence(full)), {})
    found = restored(told)
    assert found is not None
    short = found.evidence.stable
    more = sample(queue_waits=full.queue_waits, received=1.0, tokens=1.0)
    nothing = sample(queue_waits=tuple((bound, 0.0) for bound, _ in full.queue_waits))
    assert short.queue_wait_p95 == full.queue_wait_p95
    assert short.plus(nothing, more).queue_wait_p95 == pytest.approx(full.plus(nothing, more).queue_wait_p95)


def test_nothing_is_restored_from_a_status_without_a_rollout() -> None:
    assert restored({}) is None


@pytest.mark.parametrize(
    ("progress", "pods", "status", "reason", "says"),
    [
        pytest.param(in_state(State.BASELINE, A, A), [old()], False, Reason.ROLLOUT_COMPLETE, "all 1", id="complete"),
        pytest.param(TRIAL, [old(), new()], True, Reason.CANARY_TRIAL, "1 of 1 canary pods", id="a trial"),
        pytest.param(
            replace(TRIAL, surge=False),
            [old(), new()],
            True,
            Reason.SURGE_IMPOSSIBLE,
            "no GPU is free",
            id="a trial without room",
        ),
        pytest.param(
            in_state(State.PROMOTING), [old(), new()], True, Reason.ROLLING_UPDATE, "1 of 2 replicas", id="rolling"
        ),
        pytest.param(
            in_state(State.PROMOTING, surge=False),
            [old()],
            True,
            Reason.SURGE_IMPOSSIBLE,
            "no GPU is free",
            id="no room to surge",
        ),
        pytest.param(
            replace(BACK, message="0.2 nats"), [old()], False, Reason.CANARY_ROLLED_BACK, "0.2 nats", id="rolled back"
        ),
        pytest.param(
            in_state(State.ROLLED_BACK, "gone", B), [old()], False, Reason.REVISION_LOST, "deleted", id="record deleted"
        ),
    ],
)
def test_the_condition_progressing(
    progress: Progress, pods: list[PodState], status: bool, reason: Reason, says: str
) -> None:
    condition = progressing(seen(*pods), progress)
    assert (condition.type, condition.status, condition.reason) == ("Progressing", status, reason)
    assert says in condition.message


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        pytest.param(in_state(State.BASELINE, A, A), TRIAL, Announcement.CANARY_STARTED, id="a trial begins"),
        pytest.param(
            TRIAL,
            in_state(State.PROMOTING, verdict=Verdict.ALL_GATES_PASSED),
            Announcement.CANARY_PROMOTED,
            id="it passes",
        ),
        pytest.param(TRIAL, in_state(State.PROMOTING), Announcement.ROLLOUT_STARTED, id="a person cuts it short"),
        pytest.param(
            in_state(State.BASELINE, A, A), in_state(State.PROMOTING), Announcement.ROLLOUT_STARTED, id="it rolls"
        ),
        pytest.param(in_state(State.PROMOTING), in_state(State.BASELINE, B, B), None, id="it is complete"),
        pytest.param(TRIAL, BACK, Announcement.CANARY_ROLLED_BACK, id="it fails"),
        pytest.param(TRIAL, replace(TRIAL, message="more"), None, id="it goes on"),
        pytest.param(None, TRIAL, None, id="another operator continues it"),
        pytest.param(TRIAL, in_state(State.PROMOTING, A, A), Announcement.ROLLOUT_STARTED, id="the edit is taken back"),
    ],
)
def test_what_is_told(before: Progress | None, after: Progress, reason: Announcement | None) -> None:
    told = [action.reason for action in news(before, after) if isinstance(action, Announce)]
    assert told == ([reason] if reason else [])


def test_a_time_survives_its_text() -> None:
    assert epoch(timestamp(NOW)) == NOW
