"""Canary pods beside the replicas, on a spacious and on a full cluster, and never at the price of what was decided."""

from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import revisions
from headrace_operator.decide.actions import Action, CreatePod, DeletePod, Promote, Unroute
from headrace_operator.decide.plan import plan
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.rolling import is_full
from headrace_operator.decide.rollouts import Progress, State, advance
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import Batching, Canary, Rollout, Strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import IMAGE, NOW, decided, deployment, pod, recorded, sample, scaling, signals

CANARY = Rollout(Strategy.CANARY, Canary(replicas=1))
OLD = deployment(rollout=CANARY)
NEW = deployment(rollout=CANARY, batching=Batching(8, 2048, 1024))
A, B = (revisions.asked(given) for given in (OLD, NEW))
RECORDS = (recorded(OLD), recorded(NEW, number=2))
ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
TRIAL = Progress(State.TRIAL, A, B, NOW - 10, Verdict.EVIDENCE_MISSING)
BACK = Progress(State.ROLLED_BACK, A, B, NOW - 10, Verdict.QUALITY_WORSE)
PROMOTING = Progress(State.PROMOTING, A, B, NOW - 10, Verdict.ALL_GATES_PASSED)


def old(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=A, **changes)


def new(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=B, **({"role": Role.CANARY} | changes))


def planned(progress: Progress, replicas: int, *pods: PodState, given: Any = NEW) -> list[Action]:
    decision = replace(decided(1, signals(1, load=1.0)), replicas=replicas, current=replicas)
    return plan(given, IMAGE, Observed(pods, RECORDS), decision, progress=progress, said=None, now=NOW)


def created(actions: list[Action]) -> list[tuple[str, str]]:
    """Revision and role of each new pod."""
    bodies = [action.body["metadata"]["labels"] for action in actions if isinstance(action, CreatePod)]
    return [(labels["headrace.dev/revision"], labels["headrace.dev/role"]) for labels in bodies]


def leaving(actions: list[Action]) -> list[str]:
    return [action.name for action in actions if isinstance(action, Unroute | DeletePod)]


@pytest.mark.parametrize(
    ("progress", "pods", "new_pods", "gone"),
    [
        pytest.param(TRIAL, [old(0), old(1)], [(B, "canary")], [], id="a trial begins with one pod more"),
        pytest.param(TRIAL, [old(0), old(1), new(2)], [], [], id="and leaves the others alone"),
        pytest.param(
            TRIAL, [old(0), new(2)], [(A, "replica")], [], id="a lost old pod is made again of the old revision"
        ),
        pytest.param(
            TRIAL,
            [old(0), old(1), new(2), new(3, created_at=NOW)],
            [],
            ["llama-3"],
            id="too many canary pods: one goes",
        ),
        pytest.param(
            TRIAL, [old(0), new(2), new(3)], [(A, "replica")], ["llama-2"], id="as soon as enough are ready without it"
        ),
        pytest.param(
            TRIAL,
            [old(0), old(1, PodPhase.LOADING), new(2, PodPhase.LOADING), new(3)],
            [],
            ["llama-2"],
            id="and not before; the one that serves nobody goes first",
        ),
        pytest.param(BACK, [old(0), old(1), new(2)], [], ["llama-2"], id="after a failed trial the canary leaves"),
        pytest.param(
            BACK, [old(0, PodPhase.LOADING), old(1), new(2)], [], ["llama-2"], id="whether or not the others are ready"
        ),
        pytest.param(BACK, [old(0)], [(A, "replica")], [], id="and what is lost is made of the old revision"),
        pytest.param(
            replace(TRIAL, surge=False),
            [old(0), old(1, created_at=NOW), new(2, PodPhase.UNSCHEDULABLE, message=ROOM)],
            [],
            ["llama-1"],
            id="on a full cluster the canary takes the place of one",
        ),
        pytest.param(
            replace(TRIAL, surge=False), [old(0), new(2)], [], [], id="and keeps it, so that nobody waits for a GPU"
        ),
    ],
)
def test_canary_pods(
    progress: Progress, pods: list[PodState], new_pods: list[tuple[str, str]], gone: list[str]
) -> None:
    actions = planned(progress, 2, *pods)
    assert (created(actions), leaving(actions)) == (new_pods, gone)


def test_the_last_replica_stays_even_where_the_canary_finds_no_room() -> None:
    waiting = new(2, PodPhase.UNSCHEDULABLE, message=ROOM)
    assert planned(replace(TRIAL, surge=False), 1, old(0), waiting) == []


def test_a_standby_of_the_revision_on_trial_is_no_canary() -> None:
    loaded = new(2, role=Role.STANDBY, routable=False)
    assert created(planned(TRIAL, 2, old(0), old(1), loaded)) == [(B, "canary")]
    assert not BACK.is_canary(loaded)


def test_load_that_rises_during_a_trial_is_met_with_the_old_revision() -> None:
    assert created(planned(TRIAL, 5, old(0), old(1), new(2))) == [(A, "replica")] * 3


def test_a_canary_that_passed_becomes_a_replica_and_the_rest_rolls() -> None:
    actions = planned(PROMOTING, 2, old(0), old(1), new(2))
    assert [action.name for action in actions if isinstance(action, Promote)] == ["llama-2"]
    assert leaving(actions) == ["llama-0"]


def test_both_records_are_kept_while_a_rollback_may_need_them() -> None:
    many = tuple(replace(recorded(), hash=f"{n:08d}", number=n + 3, name=f"llama-{n}") for n in range(4))
    decision = replace(decided(1, signals(1, load=1.0)), replicas=0, current=0)
    kept = Observed((), (*RECORDS, *many))
    actions = plan(NEW, IMAGE, kept, decision, progress=BACK, said=None, now=NOW)
    assert {getattr(action, "name", None) for action in actions} == {"llama-0"}


def test_without_the_record_of_what_serves_no_pod_is_made() -> None:
    decision = replace(decided(1, signals(1, load=1.0)), replicas=3, current=3)
    kept = Observed((old(0),), RECORDS[1:])
    assert plan(NEW, IMAGE, kept, decision, progress=BACK, said=None, now=NOW) == []


phases = st.sampled_from([PodPhase.READY, PodPhase.LOADING, PodPhase.CRASH_LOOPING])
drawn = st.lists(st.tuples(st.booleans(), phases, st.integers(0, 9)), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.integers(1, 5), drawn, st.sampled_from([TRIAL, PROMOTING]))
def test_with_spare_gpus_no_plan_takes_a_ready_pod_that_is_needed(
    replicas: int, pods: list[tuple[bool, PodPhase, int]], progress: Progress
) -> None:
    states = [
        (new if is_new else old)(n, phase, sample=sample(running=load)) for n, (is_new, phase, load) in enumerate(pods)
    ]
    gone = set(leaving(planned(progress, replicas, *states)))
    ready = [state for state in states if state.is_ready]
    staying = [state for state in ready if state.name not in gone]
    assert len(staying) >= min(len(ready), replicas)


class Cluster:
    """A trial by the real plan and state machine, with room for so many pods: of GPUs, or of a namespace's budget.

    Pods are ready a tick after they found a place, and stop three ticks after they were told to.
    """

    def __init__(self, room: int, replicas: int, *, bad: bool, by_budget: bool) -> None:
        self.room, self.replicas, self.bad, self.by_budget = room, replicas, bad, by_budget
        self.given = replace(NEW, scaling=scaling(min_replicas=replicas))
        self.pods = [old(n) for n in range(replicas)]
        self.progress: Progress | None = Progress(State.BASELINE, A, A, NOW - 60)
        self.now = NOW
        self.least = self.most = replicas
        self.gone: dict[str, float] = {}

    def tick(self) -> None:
        self._run_pods()
        seen = Observed(tuple(self.pods), RECORDS)
        budget = self._budget(seen)
        replicas = min(self.replicas, budget or self.replicas)
        usual = decided(1, signals(1, load=1.0))
        situation = replace(usual.situation, budget=budget)
        decision = replace(usual, situation=situation, replicas=replicas, current=replicas)
        self.progress = advance(self.given, seen, self.progress, (), self.now, full=is_full(seen, budget))
        for action in plan(self.given, IMAGE, seen, decision, progress=self.progress, said=None, now=self.now):
            self._apply(action)
        self.least = min(self.least, sum(state.is_ready for state in self.pods))
        self.most = max(self.most, len(self.pods))
        self.now += 2.0

    def _budget(self, seen: Observed) -> int | None:
        """As budgets count: never below what runs, and what stops still has its GPU."""
        beside = len(seen.pods) - len(seen.live)
        return max(self.room - beside, len(seen.live), 1) if self.by_budget else None

    def _run_pods(self) -> None:
        self.pods = [state for state in self.pods if self.gone.get(state.name, self.now + 1) > self.now]
        placed = [state for state in self.pods if state.phase is not PodPhase.UNSCHEDULABLE]
        for n, state in enumerate(self.pods):
            if state.phase is PodPhase.UNSCHEDULABLE and (self.by_budget or len(placed) < self.room):
                placed.append(state)
                self.pods[n] = replace(state, phase=PodPhase.LOADING, message="")
            elif state.phase is PodPhase.LOADING:
                is_bad = self.bad and state.revision == B
                self.pods[n] = replace(state, phase=PodPhase.MODEL_REFUSED if is_bad else PodPhase.READY)
        done = 10.0 * (self.now - NOW)
        work = {"received": done, "finished": done, "tokens": done, "token_gaps": done, "token_gap_seconds": done}
        self.pods = [replace(state, sample=sample(self.now, **work)) for state in self.pods]

    def _apply(self, action: Action) -> None:
        match action:
            case CreatePod(body):
                metadata = body["metadata"]
                role = Role(metadata["labels"]["headrace.dev/role"])
                revision, ordinal = (metadata["labels"][f"headrace.dev/{key}"] for key in ("revision", "ordinal"))
                waits = {"phase": PodPhase.UNSCHEDULABLE, "message": ROOM, "created_at": self.now, "role": role}
                fresh = pod(int(ordinal), name=metadata["name"], uid=f"{metadata['name']}-{self.now}")
                self.pods.append(replace(fresh, revision=revision, **waits))
            case Unroute(name) | DeletePod(name):
                self.gone.setdefault(name, self.now + 6.0)
                self.pods = [replace(s, phase=PodPhase.TERMINATING) if s.name == name else s for s in self.pods]
            case Promote(name):
                self.pods = [replace(s, role=Role.REPLICA) if s.name == name else s for s in self.pods]
            case _:
                pass


@pytest.mark.parametrize("by_budget", [False, True], ids=["GPUs", "budget"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("spare", [0, 1], ids=["full", "spare"])
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_trial_comes_to_its_end_on_any_cluster(replicas: int, spare: int, bad: bool, by_budget: bool) -> None:
    run = Cluster(replicas + spare, replicas, bad=bad, by_budget=by_budget)
    for _ in range(2000):
        run.tick()
        assert run.progress is not None
        if run.progress.state in {State.BASELINE, State.ROLLED_BACK} and run.progress.updated == B:
            break
    has_no_trial = replicas == 1 and not spare  # the only replica never gives way, and so the deadline decides
    ends_well = not bad and not has_no_trial
    assert run.progress.state is (State.BASELINE if ends_well else State.ROLLED_BACK)
    if has_no_trial:
        assert run.progress.verdict is Verdict.DEADLINE_PASSED
    for _ in range(20):
        run.tick()
    assert {state.revision for state in run.pods} == {B if ends_well else A}
    assert sum(state.is_ready for state in run.pods) == len(run.pods) == replicas
    assert run.least >= replicas - (0 if spare or has_no_trial else 1)
    if by_budget:
        assert run.most <= replicas + spare
