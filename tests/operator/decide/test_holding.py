"""Under strategy Rolling a revision that does not become Ready takes nobody's place, what is lost is replaced by what
served last, and after the deadline the condition says what to do."""

import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import revisions
from headrace_operator.decide.actions import Action, Announce, CreatePod, DeletePod, Promote, Unroute
from headrace_operator.decide.headway import Headway
from headrace_operator.decide.plan import plan
from headrace_operator.decide.progress import progressing
from headrace_operator.decide.reasons import Announcement
from headrace_operator.decide.reasons import Progress as Reason
from headrace_operator.decide.rollout_news import news
from headrace_operator.decide.rollout_record import as_status, restored
from headrace_operator.decide.rollouts import Progress, State, advance
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import Batching, Rollout
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import IMAGE, NOW, decided, deployment, pod, recorded, scaling, signals

OLD = deployment()
NEW = deployment(batching=Batching(8, 2048, 1024))
THIRD = deployment(batching=Batching(9, 2048, 1024))
A, B, C = (revisions.asked(each) for each in (OLD, NEW, THIRD))
RECORDS = tuple(recorded(each, number=n) for n, each in enumerate((OLD, NEW, THIRD)))
ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
HASTY = replace(NEW, rollout=Rollout(progress_deadline=60.0))
BEGUN = Progress(State.PROMOTING, A, B, NOW - 10, stable_served=True, headway=Headway(NOW, 0, 3))
LATE = replace(BEGUN, headway=replace(BEGUN.headway, is_overdue=True))
CRASHES = {"phase": PodPhase.CRASH_LOOPING, "message": "exit status 1; restarted 4 times"}


def old(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=A, **changes)


def new(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=B, **changes)


def waiting(made: Any, ordinal: int) -> PodState:
    found: PodState = made(ordinal, PodPhase.UNSCHEDULABLE, message=ROOM)
    return found


def planned(progress: Progress, replicas: int, *pods: PodState, given: Any = NEW, **seen: Any) -> list[Action]:
    decision = replace(decided(1, signals(1, load=1.0)), replicas=replicas, current=replicas)
    return plan(given, IMAGE, Observed(pods, RECORDS, **seen), decision, progress=progress, said=None, now=NOW)


def created(actions: list[Action]) -> list[tuple[str, str]]:
    """Revision and role of each new pod."""
    bodies = [action.body["metadata"]["labels"] for action in actions if isinstance(action, CreatePod)]
    return [(labels["headrace.dev/revision"], labels["headrace.dev/role"]) for labels in bodies]


def leaving(actions: list[Action]) -> list[str]:
    return [action.name for action in actions if isinstance(action, Unroute | DeletePod)]


NO_ROOM = replace(BEGUN, surge=False)
LATE_WITHOUT_ROOM = replace(LATE, surge=False)


@pytest.mark.parametrize(
    ("progress", "pods", "made", "gone"),
    [
        pytest.param(BEGUN, [old(0), old(1), old(2)], [B], [], id="one new pod beside all old ones"),
        pytest.param(BEGUN, [old(0), old(1), new(5, **CRASHES)], [A], [], id="a lost old pod is replaced by its like"),
        pytest.param(BEGUN, [new(5, **CRASHES)], [A, A, A], [], id="all of them, when all are lost"),
        pytest.param(
            BEGUN, [old(0), old(1), old(2, PodPhase.UNREADY), new(5, **CRASHES)], [], [],
            id="an old pod that misses a probe is kept",
        ),
        pytest.param(
            BEGUN, [old(0), old(1), old(2), new(4, **CRASHES), new(5, PodPhase.LOADING)], [], ["llama-4"],
            id="one pod shows as much as two",
        ),
        pytest.param(
            BEGUN, [old(0), old(1), old(2, loss_announced="cordoned"), new(5, **CRASHES)], [A], [],
            id="a loss that is announced is replaced before",
        ),
        pytest.param(
            BEGUN, [old(0), old(1), old(2, loss_announced="cordoned"), old(3), new(5, **CRASHES)], [], ["llama-2"],
            id="and leaves when its replacement is ready",
        ),
        pytest.param(BEGUN, [old(n) for n in range(5)], [], ["llama-0", "llama-1"], id="fewer are needed now"),
        pytest.param(
            BEGUN, [old(0), old(1), new(5), new(6, PodPhase.LOADING)], [], [], id="once one is Ready it rolls as ever"
        ),
        pytest.param(
            BEGUN, [old(0), old(1), old(2, PodPhase.UNREADY), new(5)], [], ["llama-2"], id="and takes the useless first"
        ),
        pytest.param(
            BEGUN, [old(0), old(1), new(5, PodPhase.UNREADY)], [], [], id="one that served and misses a probe was Ready"
        ),
        pytest.param(
            BEGUN, [old(0), old(1), pod(3, PodPhase.LOADING, revision=C)], [], ["llama-3"], id="a third revision leaves"
        ),
        pytest.param(
            replace(BEGUN, stable_served=False), [old(0), old(1, **CRASHES)], [], ["llama-1"],
            id="a revision that never served is not held on to",
        ),
        pytest.param(NO_ROOM, [old(0), old(1), old(2), waiting(new, 5)], [], ["llama-0"], id="full: one makes room"),
        pytest.param(
            NO_ROOM, [old(1), old(2), old(0, routable=False, unrouted_at=NOW - 1), waiting(new, 5)], [], [],
            id="full: and only one",
        ),
        pytest.param(NO_ROOM, [old(0), new(5, **CRASHES)], [A], [], id="full: what else is lost comes back"),
        pytest.param(LATE, [old(0), old(1), old(2), new(5, **CRASHES)], [], [], id="late, and in nobody's way"),
        pytest.param(
            LATE_WITHOUT_ROOM, [old(0), old(1), new(5, **CRASHES)], [], ["llama-5"], id="late: its place goes back"
        ),
        pytest.param(LATE_WITHOUT_ROOM, [old(0), old(1)], [A], [], id="late: to the old revision"),
        pytest.param(LATE_WITHOUT_ROOM, [old(0), old(1), old(2)], [], [], id="late: and nothing else happens"),
        pytest.param(
            LATE, [old(0), old(1), waiting(old, 2), new(5, **CRASHES)], [], ["llama-5"],
            id="late: an old pod waits for that GPU",
        ),
        pytest.param(LATE, [old(0), old(1), waiting(old, 2)], [], [], id="late: nothing new while it waits"),
    ],
)  # fmt: skip
def test_what_a_rollout_does_before_its_revision_is_ready(
    progress: Progress, pods: list[PodState], made: list[str], gone: list[str]
) -> None:
    actions = planned(progress, 3, *pods)
    assert [revision for revision, _ in created(actions)] == made
    assert sorted(leaving(actions)) == gone


def test_where_a_quota_is_full_a_new_pod_is_asked_for_when_an_old_one_has_left() -> None:
    pods = [old(n) for n in range(3)]
    assert created(planned(BEGUN, 3, *pods, refused="exceeded quota: gpus")) == []
    assert leaving(planned(NO_ROOM, 3, *pods, refused="exceeded quota: gpus")) == ["llama-0"]
    assert created(planned(NO_ROOM, 3, *pods[:2])) == [(B, "replica")]


def test_standby_pods_stay_of_the_revision_that_serves() -> None:
    given = replace(NEW, scaling=scaling(warm_standby=1))
    pods = [*(old(n) for n in range(3)), new(5, **CRASHES)]
    assert created(planned(BEGUN, 3, *pods, given=given)) == [(A, "standby")]
    standby = old(7, role=Role.STANDBY, routable=False)
    assert planned(BEGUN, 3, *pods, standby, given=given) == []
    promoted = [
        action.name for action in planned(BEGUN, 3, *pods[1:], standby, given=given) if isinstance(action, Promote)
    ]
    assert promoted == ["llama-7"]  # for the one that was lost


class Replaced:
    """A rollout of three replicas, tick by tick: old pods start at once, new ones never do."""

    def __init__(self, *, gpus: int) -> None:
        self.pods = [old(n) for n in range(3)]
        self.gpus = gpus
        self.progress: Progress | None = Progress(State.BASELINE, A, A, NOW - 100)
        self.now = NOW
        self.told: list[Action] = []
        self.status: dict[str, Any] = {}

    def tick(self, lost: int | None = None) -> None:
        if lost is not None and self.pods:
            del self.pods[lost % len(self.pods)]
        seen = Observed(tuple(self.pods), RECORDS)
        before, self.progress = self.progress, advance(HASTY, seen, self.progress, (), self.now, full=False)
        self.told += news(before, self.progress)
        self.status = json.loads(json.dumps(as_status(HASTY, self.progress, self.status)))
        self.progress = restored(self.status)  # each tick by another operator
        assert self.progress is not None
        actions = planned(self.progress, 3, *self.pods)
        self.pods = [each for each in self.pods if each.name not in leaving(actions)]
        for action in actions:
            if isinstance(action, CreatePod):
                self._create(action)
        self.pods = [self._placed(n, each) for n, each in enumerate(self.pods)]
        self.now += 2.0

    def _create(self, action: CreatePod) -> None:
        labels, name = action.body["metadata"]["labels"], action.body["metadata"]["name"]
        ordinal = int(labels["headrace.dev/ordinal"])
        made = old if labels["headrace.dev/revision"] == A else new
        self.pods.append(replace(waiting(made, ordinal), name=name, uid=f"{name} at {self.now}"))

    def _placed(self, place: int, each: PodState) -> PodState:
        """First come, first served, by the order of creation."""
        if each.phase is not PodPhase.UNSCHEDULABLE or place >= self.gpus:
            return each
        started = old(0) if each.revision == A else new(0, **CRASHES)
        return replace(
            each, phase=started.phase, message=started.message, sample=started.sample, ready_at=started.ready_at
        )

    @property
    def serving(self) -> int:
        return sum(each.is_ready for each in self.pods)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.integers(0, 3), max_size=15), st.sampled_from([3, 4]))
def test_a_broken_revision_costs_nothing_but_the_place_of_one(losses: list[int | None], gpus: int) -> None:
    """Whatever is lost before the deadline; with and without a GPU to spare."""
    rollout = Replaced(gpus=gpus)
    for loss in losses:
        rollout.tick(loss)
    for _ in range(10):
        rollout.tick()
    assert rollout.serving == (3 if gpus > 3 else 2)
    for _ in range(40):
        rollout.tick()
    assert rollout.serving == 3
    assert sum(each.revision == B for each in rollout.pods) == (1 if gpus > 3 else 0)
    before = list(rollout.pods)
    rollout.tick()
    assert rollout.pods == before
    stalled = [action for action in rollout.told if isinstance(action, Announce)]
    assert [action.reason for action in stalled] == [Announcement.ROLLOUT_STARTED, Announcement.ROLLOUT_STALLED]
    assert "CrashLooping: exit status 1" in stalled[-1].message
    condition = progressing(Observed(tuple(rollout.pods), RECORDS), rollout.progress)  # type: ignore[arg-type]
    assert (condition.status, condition.reason) == (False, Reason.PROGRESS_DEADLINE_EXCEEDED)
    assert "CrashLooping: exit status 1" in condition.message
    assert "change the pod template in the manifest" in condition.message
    assert f"3 replicas of revision {A} serve on" in condition.message


@pytest.mark.parametrize(
    ("after", "pods", "is_overdue"),
    [
        pytest.param(600.0, [old(0), old(1), old(2), new(5, PodPhase.LOADING)], False, id="until the deadline"),
        pytest.param(600.1, [old(0), old(1), old(2), new(5, PodPhase.LOADING)], True, id="and no longer"),
        pytest.param(600.1, [old(0), old(1), old(2), new(5)], False, id="a pod that became ready is progress"),
        pytest.param(600.1, [old(0), old(1), new(5, PodPhase.LOADING)], False, id="and an old one that left"),
        pytest.param(600.1, [old(n) for n in range(9)], True, id="more old ones are none"),
    ],
)
def test_the_deadline_counts_from_the_last_progress(after: float, pods: list[PodState], is_overdue: bool) -> None:
    found = advance(NEW, Observed(tuple(pods), RECORDS), BEGUN, (), NOW + after, full=False)
    assert found.headway.is_overdue is is_overdue


def test_a_pod_that_becomes_ready_after_all_goes_on() -> None:
    seen = Observed((old(0), old(1), old(2), new(5)), RECORDS)
    found = advance(NEW, seen, LATE, (), NOW + 900, full=False)
    assert not found.headway.is_overdue
    assert progressing(seen, found).reason is Reason.ROLLING_UPDATE
    assert leaving(planned(found, 3, *seen.pods)) == ["llama-0"]


def test_another_edit_begins_the_time_anew() -> None:
    found = advance(THIRD, Observed((old(0),), RECORDS), LATE, (), NOW + 900, full=False)
    assert (found.updated, found.stable, found.stable_served) == (C, A, True)
    assert found.headway == Headway(NOW + 900, 0, 1)


def test_what_was_never_ready_is_not_called_served() -> None:
    first = advance(OLD, Observed((old(0, PodPhase.LOADING),), RECORDS), None, (), NOW, full=False)
    assert not first.stable_served
    assert advance(OLD, Observed((old(0),), RECORDS), first, (), NOW, full=False).stable_served


ZERO = replace(NEW, scaling=scaling(min_replicas=0))
TRIED = {"none is there": (), "the new one starts": (new(0, PodPhase.LOADING),), "it crashes": (new(0, **CRASHES),)}


@pytest.mark.parametrize("pods", TRIED.values(), ids=TRIED)
def test_where_no_replica_is_wanted_no_revision_is_tried(pods: tuple[PodState, ...]) -> None:
    actions = planned(BEGUN, 0, *pods, given=ZERO)
    assert created(actions) == []
    assert leaving(actions) == [each.name for each in pods]


def test_from_zero_the_revision_that_served_comes_first_and_the_new_one_is_tried_beside_it() -> None:
    first = planned(BEGUN, 1, given=ZERO)
    assert created(first) == [(A, "replica")]
    assert created(planned(BEGUN, 1, old(0, PodPhase.LOADING), given=ZERO)) == [(B, "replica")]


def test_at_zero_no_deadline_passes() -> None:
    hasty = replace(HASTY, scaling=scaling(min_replicas=0))
    after = advance(hasty, Observed((), RECORDS), BEGUN, (), NOW + 1000.0, full=False)
    assert not after.headway.is_overdue
    after = advance(hasty, Observed((new(0, **CRASHES),), RECORDS), after, (), NOW + 1061.0, full=False)
    assert after.headway.is_overdue
