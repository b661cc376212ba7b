"""Shadow pods: they are tried like a canary, on copies, and nobody's place, number or request depends on them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import conditions, revisions, routing
from headrace_operator.decide.actions import Action, Announce, CreatePod, DeletePod, Promote, Unroute
from headrace_operator.decide.conflicts import Claims
from headrace_operator.decide.evidence import key
from headrace_operator.decide.history import History
from headrace_operator.decide.plan import plan
from headrace_operator.decide.progress import progressing
from headrace_operator.decide.questions import questions
from headrace_operator.decide.reasons import Announcement, Reason, Verdict
from headrace_operator.decide.reasons import Progress as Why
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.rolling import is_full
from headrace_operator.decide.rollout_news import news
from headrace_operator.decide.rollout_record import as_status, restored
from headrace_operator.decide.rollouts import Progress, State, advance
from headrace_operator.decide.rules import Clamp
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.status import Tick, status
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.routing_fields import Routing, RoutingMode
from headrace_operator.service import Batching, Canary, GoldenPrompt, InferenceDeployment, Mode, Rollout, Strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import IMAGE, NOW, decided, deployment, pod, recorded, sample, scaling, signals

SHADOW = Rollout(Strategy.SHADOW, Canary(replicas=1, deadline=300.0))
ROUTED = Routing(RoutingMode.HEADRACE)
OLD = deployment(rollout=SHADOW, routing=ROUTED)
NEW = deployment(rollout=SHADOW, routing=ROUTED, batching=Batching(8, 2048, 1024))
THIRD = deployment(rollout=SHADOW, routing=ROUTED, batching=Batching(9, 2048, 1024))
A, B, C = (revisions.asked(asked) for asked in (OLD, NEW, THIRD))
RECORDS = tuple(recorded(asked, number=n) for n, asked in enumerate((OLD, NEW, THIRD)))
ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
BASE = Progress(State.BASELINE, A, A, NOW - 60)
TRIAL = Progress(State.TRIAL, A, B, NOW - 10, Verdict.EVIDENCE_MISSING, is_shadow=True)
BACK = replace(TRIAL, state=State.ROLLED_BACK, verdict=Verdict.ERROR_RATE_WORSE)
PROMOTING = replace(TRIAL, state=State.PROMOTING, verdict=Verdict.ALL_GATES_PASSED)


def old(ordinal: int = 0, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=A, **changes)


def shadow(ordinal: int = 5, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, **({"revision": B, "role": Role.SHADOW, "routable": False} | changes))


def seen(*pods: PodState, **changes: Any) -> Observed:
    """As the edge tells it."""
    shadows = tuple(one for one in pods if one.role is Role.SHADOW)
    return Observed(tuple(one for one in pods if one not in shadows), RECORDS, shadows=shadows, **changes)


def planned(progress: Progress, replicas: int, *pods: PodState, asked: InferenceDeployment = NEW, **of: Any) -> Any:
    """`of`: clamps and the budget of the decision, and what was seen beside the pods."""
    usual = decided(1, signals(1, load=1.0))
    situation = replace(usual.situation, budget=of.pop("budget", None))
    clamps = of.pop("clamps", ())
    decision = replace(usual, situation=situation, clamps=clamps, replicas=replicas, current=replicas)
    return plan(asked, IMAGE, seen(*pods, **of), decision, progress=progress, said=None, now=NOW)


def created(actions: list[Action]) -> list[tuple[str, str, str]]:
    """Revision and role of each new pod, and whether it is routed."""
    bodies = [action.body["metadata"]["labels"] for action in actions if isinstance(action, CreatePod)]
    return [tuple(labels[f"headrace.dev/{name}"] for name in ("revision", "role", "routable")) for labels in bodies]


def gone(actions: list[Action]) -> dict[str, str]:
    """Pods that leave, and why."""
    return {action.name: action.why for action in actions if isinstance(action, Unroute | DeletePod)}


NEW_SHADOW = (B, "shadow", "false")
OVER = (Clamp(Reason.OVER_BUDGET, 3, 2),)
PLACES = [
    pytest.param(TRIAL, [old(0), old(1)], {}, [NEW_SHADOW], {}, id="a trial begins with a pod that is not routed"),
    pytest.param(TRIAL, [old(0), old(1), shadow()], {}, [], {}, id="and leaves the others alone"),
    pytest.param(
        TRIAL, [old(0), shadow()], {}, [(A, "replica", "true")], {}, id="what is lost is made of the old revision"
    ),
    pytest.param(TRIAL, [old(0)], {}, [(A, "replica", "true")], {}, id="and before any shadow"),
    pytest.param(TRIAL, [old(0), old(1)], {"budget": 2}, [], {}, id="not beyond the namespace's GPU budget"),
    pytest.param(
        TRIAL, [old(0), old(1), shadow()], {"clamps": OVER}, [], {"llama-5": "replicas need its place"},
        id="who cannot grow for want of budget gets the place back",
    ),
    pytest.param(
        TRIAL, [old(0), old(1, PodPhase.UNSCHEDULABLE, message=ROOM), shadow()], {},
        [], {"llama-5": "replicas need its place"}, id="so does a replica that finds no GPU",
    ),
    pytest.param(
        TRIAL, [old(0), shadow()], {"refused": "exceeded quota"}, [(A, "replica", "true")],
        {"llama-5": "replicas need its place"}, id="and one that a quota refuses",
    ),
    pytest.param(
        TRIAL, [old(0), old(1), shadow(5, PodPhase.LOST, message="evicted")], {}, [NEW_SHADOW],
        {"llama-5": "lost: evicted"}, id="a lost shadow is replaced",
    ),
    pytest.param(
        TRIAL, [old(0), old(1), shadow(5, PodPhase.TERMINATING)], {}, [NEW_SHADOW], {}, id="one that stops is none"
    ),
    pytest.param(
        TRIAL, [old(0), old(1), shadow(5, PodPhase.LOADING), shadow(6)], {}, [],
        {"llama-5": "more shadow pods than wanted"}, id="too many: who is not ready goes",
    ),
    pytest.param(
        TRIAL, [old(0), old(1), shadow(5, revision=C), shadow(6)], {}, [],
        {"llama-5": "another revision is asked for"}, id="what was edited meanwhile is not tried any more",
    ),
    pytest.param(
        BACK, [old(0), old(1), shadow()], {}, [], {"llama-5": "the trial failed: ErrorRateWorse"}, id="a failed trial"
    ),
    pytest.param(
        BASE, [old(0), old(1), shadow()], {}, [], {"llama-5": "another revision is asked for"}, id="no trial at all"
    ),
    pytest.param(
        replace(TRIAL, is_shadow=False), [old(0), old(1), shadow()], {}, [(B, "canary", "true")],
        {"llama-5": "there is no trial of shadow pods"}, id="the trial is one of canary pods now",
    ),
    pytest.param(
        PROMOTING, [old(0), old(1), shadow(5, PodPhase.CRASH_LOOPING)], {}, [(B, "replica", "true")],
        {"llama-5": "there is no trial of shadow pods"}, id="what is broken takes nothing over",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("progress", "pods", "of", "new_pods", "leaving"), PLACES)
def test_shadow_pods(
    progress: Progress, pods: list[PodState], of: Any, new_pods: list[Any], leaving: dict[str, str]
) -> None:
    actions = planned(progress, 2, *pods, **of)
    assert (created(actions), gone(actions)) == (new_pods, leaving)


def test_with_no_replica_there_is_nobody_to_compare_with() -> None:
    assert gone(planned(TRIAL, 0, shadow())) == {"llama-5": "no replica is left to compare with"}
    assert created(planned(TRIAL, 0)) == []


def test_what_passed_becomes_a_replica_before_anything_else_is_rolled() -> None:
    actions = planned(PROMOTING, 2, old(0), old(1), shadow())
    assert [type(action) for action in actions] == [Promote]
    replica = replace(shadow(), role=Role.REPLICA, routable=True)
    assert list(gone(planned(PROMOTING, 2, old(0), old(1), replica))) == ["llama-0"]


def test_in_mode_shadow_no_shadow_pod_is_touched() -> None:
    watching = replace(NEW, scaling=scaling(mode=Mode.SHADOW))
    assert planned(BACK, 2, old(0), old(1), shadow(), asked=watching) == []
    assert advance(watching, seen(old(0)), BASE, (), NOW, full=False) == BASE


def test_a_paused_deployment_is_tried_all_the_same() -> None:
    assert created(planned(TRIAL, 1, old(0), asked=replace(NEW, scaling=scaling(mode=Mode.PAUSED)))) == [NEW_SHADOW]


def test_no_ordinal_is_given_twice() -> None:
    (action,) = planned(TRIAL, 1, old(0), shadow(1, revision=C), shadow(2, PodPhase.TERMINATING))[1:]
    assert action.body["metadata"]["labels"]["headrace.dev/ordinal"] == "3"


def canary(asked: InferenceDeployment) -> InferenceDeployment:
    return replace(asked, rollout=Rollout(Strategy.CANARY, Canary(deadline=300.0)))


def rolling(asked: InferenceDeployment) -> InferenceDeployment:
    return replace(asked, rollout=Rollout(Strategy.ROLLING))


CANARY_TRIAL = replace(TRIAL, is_shadow=False)
STATES = [
    pytest.param(BASE, NEW, [old()], (State.TRIAL, A, B, True), id="an edit starts a trial"),
    pytest.param(None, NEW, [old(), shadow()], (State.TRIAL, A, B, True), id="a lost status: what serves is stable"),
    pytest.param(
        BASE, NEW, [old(0, PodPhase.CRASH_LOOPING)], (State.PROMOTING, A, B, False), id="nothing to compare with"
    ),
    pytest.param(TRIAL, NEW, [old(), shadow()], (State.TRIAL, A, B, True), id="too little is known yet"),
    pytest.param(
        TRIAL, NEW, [old(), shadow(5, PodPhase.CRASH_LOOPING)], (State.ROLLED_BACK, A, B, True), id="it crashes"
    ),
    pytest.param(TRIAL, THIRD, [old(), shadow()], (State.TRIAL, A, C, True), id="another edit, another trial"),
    pytest.param(TRIAL, OLD, [old(), shadow()], (State.BASELINE, A, A, False), id="it is taken back"),
    pytest.param(TRIAL, rolling(NEW), [old(), shadow()], (State.PROMOTING, A, B, True), id="a trial is cut short"),
    pytest.param(TRIAL, canary(NEW), [old(), shadow()], (State.TRIAL, A, B, False), id="a canary after all"),
    pytest.param(CANARY_TRIAL, NEW, [old()], (State.TRIAL, A, B, True), id="a shadow after all"),
    pytest.param(BACK, NEW, [old()], (State.ROLLED_BACK, A, B, True), id="the manifest still says what failed"),
    pytest.param(BACK, canary(NEW), [old()], (State.TRIAL, A, B, False), id="what failed gets a canary"),
    pytest.param(
        BACK, canary(NEW), [old(0, PodPhase.UNREADY)], (State.ROLLED_BACK, A, B, True), id="once there is a stable pod"
    ),
    pytest.param(BACK, rolling(NEW), [old()], (State.PROMOTING, A, B, True), id="a person insists"),
]


@pytest.mark.parametrize(("before", "asked", "pods", "after"), STATES)
def test_the_states(before: Progress | None, asked: InferenceDeployment, pods: list[PodState], after: Any) -> None:
    found = advance(asked, seen(*pods), before, (), NOW, full=False)
    assert (found.state, found.stable, found.updated, found.is_shadow) == after


def test_another_kind_of_trial_begins_without_the_evidence_of_the_first() -> None:
    tried = replace(TRIAL, surge=False, evidence=replace(TRIAL.evidence, ready_since=NOW - 5))
    again = advance(canary(NEW), seen(old(), shadow()), tried, (), NOW, full=False)
    assert (again.started_at, again.evidence.ready_since, again.surge) == (NOW, None, True)
    (told,) = news(tried, again)
    assert isinstance(told, Announce)
    assert told.reason is Announcement.CANARY_STARTED


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        pytest.param(TRIAL, Announcement.SHADOW_STARTED, id="begins"),
        pytest.param(BACK, Announcement.SHADOW_ROLLED_BACK, id="fails"),
        pytest.param(PROMOTING, Announcement.SHADOW_PROMOTED, id="passes"),
    ],
)
def test_events(after: Progress, reason: Announcement) -> None:
    (told,) = news(BASE if after is TRIAL else TRIAL, after)
    assert isinstance(told, Announce)
    assert told.reason is reason


def test_without_a_free_gpu_the_trial_says_so_and_ends_at_its_deadline() -> None:
    waits = seen(old(), shadow(5, PodPhase.UNSCHEDULABLE, message=ROOM))
    stuck = advance(NEW, waits, TRIAL, (), NOW, full=False)
    said = progressing(waits, stuck)
    assert (said.status, said.reason) == (True, Why.WAITING_FOR_GPU)
    for words in ("0 of 1 shadow pods", "llama-5 is WaitingForGPU", ROOM, "strategy Canary"):
        assert words in said.message
    assert gone(planned(stuck, 1, old(), *waits.shadows)) == {}, "it takes no replica's place, and keeps its turn"
    late = advance(NEW, waits, stuck, (), TRIAL.started_at + 300, full=False)
    assert (late.state, late.verdict) == (State.ROLLED_BACK, Verdict.DEADLINE_PASSED)
    assert "WaitingForGPU" in late.message
    assert progressing(waits, late).reason is Why.SHADOW_ROLLED_BACK
    placed = advance(NEW, seen(old(), shadow()), stuck, (), NOW, full=False)
    assert progressing(seen(old(), shadow()), placed).reason is Why.SHADOW_TRIAL


def test_what_replicas_did_while_no_shadow_pod_was_ready_compares_with_nothing() -> None:
    """A trial that waits for a GPU through a busy night must not hold the quiet morning against it."""
    trial, counted = TRIAL, []
    for n, phase in enumerate([PodPhase.UNSCHEDULABLE, PodPhase.LOADING, PodPhase.READY, PodPhase.READY]):
        worked = sample(NOW + n, received=100.0 * n, finished=100.0 * n)
        heard = sample(NOW + n) if phase is PodPhase.READY else None
        trial = advance(NEW, seen(old(sample=worked), shadow(5, phase, sample=heard)), trial, (), NOW + n, full=False)
        counted.append(trial.evidence.stable.requests)
    assert counted == [0.0, 0.0, 100.0, 200.0]


def test_a_budget_that_leaves_no_room_is_said_too() -> None:
    stuck = advance(NEW, seen(old()), TRIAL, (), NOW, full=True)
    assert progressing(seen(old()), stuck).reason is Why.WAITING_FOR_GPU
    assert "no GPU is free" in stuck.message


def test_a_quota_that_refuses_a_shadow_pod_is_said_in_its_own_words() -> None:
    stuck = advance(NEW, seen(old(), refused="exceeded quota: team"), TRIAL, (), NOW, full=True)
    assert "exceeded quota: team; no GPU is free" in stuck.message


def test_a_pod_that_crashes_is_named() -> None:
    back = advance(NEW, seen(old(), shadow(5, PodPhase.CRASH_LOOPING, message="exit 1")), TRIAL, (), NOW, full=False)
    assert back.verdict is Verdict.SHADOW_FAILED
    assert back.message == "llama-5 is CrashLooping: exit 1"


def test_golden_prompts_are_asked_of_a_shadow_pod() -> None:
    prompt = GoldenPrompt("a", "b")
    asked = replace(NEW, rollout=Rollout(Strategy.SHADOW, Canary(golden=(prompt,))))
    found = questions(asked, seen(old(0, address="127.0.0.1"), shadow(5, address="127.0.0.2")), TRIAL)
    assert found is not None
    assert [key(one) for one in found.prompts] == [key(prompt)]
    assert (found.stable.url.split(":")[1], found.canary.url.split(":")[1]) == ("//127.0.0.1", "//127.0.0.2")
    assert questions(asked, seen(old(address="127.0.0.1"), shadow(5, PodPhase.LOADING, address="a")), TRIAL) is None


@pytest.mark.parametrize(
    ("share", "shadows", "ready", "told"),
    [
        pytest.param(None, 1, 4, "25%", id="as much for the pod as for each replica"),
        pytest.param(None, 1, 3, "34%", id="in whole percent"),
        pytest.param(None, 2, 1, "100%", id="never more than there is"),
        pytest.param(None, 1, 0, "100%", id="with none ready, of what will come"),
        pytest.param(0.05, 1, 4, "5%", id="what the manifest says"),
    ],
)
def test_routers_are_told_how_many_copies_to_make(share: float | None, shadows: int, ready: int, told: str) -> None:
    asked = replace(NEW, rollout=Rollout(Strategy.SHADOW, Canary(replicas=shadows, share=share)))
    pods = seen(*(old(n) for n in range(ready)), shadow())
    assert routing.guidance(asked, pods, TRIAL) == {"shares": [], "mirror": {"share": told}}
    assert routing.guidance(asked, pods, PROMOTING) is None


POLICY = scaling(min_replicas=1, max_replicas=10)
phases = st.sampled_from(list(PodPhase))
loads = st.integers(0, 100)
drawn = st.lists(st.tuples(phases, loads), max_size=5)


@settings(deadline=None)
@given(drawn, st.lists(st.tuples(phases, loads, st.booleans()), min_size=1, max_size=3))
def test_whatever_shadow_pods_do_no_number_changes(
    replicas: list[tuple[PodPhase, int]], shadows: list[tuple[PodPhase, int, bool]]
) -> None:
    """Neither the decision, nor what status counts, nor what conditions promise."""
    pods = [old(n, phase, sample=sample(running=load, waiting=load)) for n, (phase, load) in enumerate(replicas)]
    beside = [
        shadow(10 + n, phase, routable=routed, sample=sample(running=load, waiting=load), loss_announced="spot")
        for n, (phase, load, routed) in enumerate(shadows)
    ]
    told = []
    for around in (seen(*pods), seen(*pods, *beside)):
        history, found = measure(around, History(), NOW)
        decision = decide(look(POLICY, around, found, history, NOW))
        tick = Tick(NEW, IMAGE, around, decision, history, NOW, Claims(), BASE)
        written = status(tick, {})
        told.append([decision, {name: value for name, value in written.items() if name != "podPhases"}])
    assert told[0] == told[1]


def test_people_see_shadow_pods() -> None:
    around = seen(old(), shadow(5, PodPhase.LOADING))
    history, found = measure(around, History(), NOW)
    tick = Tick(NEW, IMAGE, around, decide(look(POLICY, around, found, history, NOW)), history, NOW, Claims(), TRIAL)
    told = status(tick, {})
    assert {"role": "shadow", "phase": "Loading", "pods": 1} in told["podPhases"]
    assert told["routing"]["mirror"] == {"share": "100%"}
    assert told["rollout"]["strategy"] == "Shadow"
    assert conditions.epoch(told["rollout"]["startedAt"]) == TRIAL.started_at


class Cluster:
    """A trial by the real plan and state machine, restarted at every tick, with room for so many pods.

    Pods are ready a tick after they found a place, and stop three ticks after they were told to. From `rises_at` on,
    one replica more is decided.
    """

    def __init__(self, room: int, replicas: int, *, is_bad: bool, rises_at: float = float("inf")) -> None:
        self.room, self.replicas, self.is_bad, self.rises_at = room, replicas, is_bad, rises_at
        self.pods = [old(n) for n in range(replicas)]
        self.progress = BASE
        self.asked = NEW
        self.told: dict[str, Any] = {}
        self.now = NOW
        self.least = replicas
        self.gone: dict[str, float] = {}

    @property
    def decided(self) -> int:
        return self.replicas + (self.now - NOW >= self.rises_at)

    def tick(self) -> None:
        self._run_pods()
        around = seen(*self.pods)
        usual = decided(1, signals(1, load=1.0))
        decision = replace(usual, replicas=self.decided, current=self.decided)
        before = restored(self.told) or self.progress
        # What a restart loses is told in test_rollouts; here it would make every trial too short.
        before = replace(before, evidence=self.progress.evidence)
        self.progress = advance(self.asked, around, before, (), self.now, full=is_full(around, None))
        self.told = json.loads(json.dumps(as_status(self.asked, self.progress, self.told)))
        for action in plan(self.asked, IMAGE, around, decision, progress=self.progress, said=None, now=self.now):
            self._apply(action)
        self.least = min(self.least, len(around.ready))
        self.now += 2.0

    def _run_pods(self) -> None:
        self.pods = [one for one in self.pods if self.gone.get(one.uid, self.now + 1) > self.now]
        placed = sum(one.phase is not PodPhase.UNSCHEDULABLE for one in self.pods)
        for n, one in enumerate(self.pods):
            if one.phase is PodPhase.UNSCHEDULABLE and placed < self.room:
                placed += 1
                self.pods[n] = replace(one, phase=PodPhase.LOADING, message="")
            elif one.phase is PodPhase.LOADING:
                self.pods[n] = replace(one, phase=PodPhase.READY)
        self.pods = [replace(one, sample=self._sample(one)) for one in self.pods]

    def _sample(self, one: PodState) -> Any:
        if one.phase is not PodPhase.READY:
            return None
        done = 10.0 * (self.now - NOW)
        work = {"received": done, "finished": done, "tokens": done, "token_gaps": done, "token_gap_seconds": done}
        return sample(self.now, **work, failed=done if self.is_bad and one.revision == B else 0.0)

    def _apply(self, action: Action) -> None:
        match action:
            case CreatePod(body):
                metadata = body["metadata"]
                revision, ordinal, role, routable = (
                    metadata["labels"][f"headrace.dev/{name}"] for name in ("revision", "ordinal", "role", "routable")
                )
                assert metadata["name"] not in {one.name for one in self.pods}
                fresh = pod(int(ordinal), PodPhase.UNSCHEDULABLE, name=metadata["name"], uid=str(self.now) + ordinal)
                how = {"role": Role(role), "routable": routable == "true", "message": ROOM, "created_at": self.now}
                self.pods.append(replace(fresh, revision=revision, **how))
            case Unroute(_, uid) | DeletePod(_, uid):
                self.gone.setdefault(uid, self.now + 6.0)
                self.pods = [replace(s, phase=PodPhase.TERMINATING) if s.uid == uid else s for s in self.pods]
            case Promote(_, uid):
                routed = {"role": Role.REPLICA, "routable": True}
                self.pods = [replace(s, **routed) if s.uid == uid else s for s in self.pods]  # type: ignore[arg-type]
            case _:
                pass


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("is_bad", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize("rises_at", [float("inf"), 20.0], ids=["steady", "rising"])
def test_a_trial_comes_to_its_end_on_any_cluster_and_costs_no_replica(
    replicas: int, spare: int, is_bad: bool, rises_at: float
) -> None:
    run = Cluster(replicas + spare, replicas, is_bad=is_bad, rises_at=rises_at)
    for _ in range(2000):
        run.tick()
        if run.progress.state in {State.BASELINE, State.ROLLED_BACK} and run.progress.updated == B:
            break
    is_cut_off = spare == 0 or (spare == 1 and rises_at < 1000)  # by the replica that came and needs the last GPU
    if is_bad and spare:  # which shows before
        assert (run.progress.state, run.progress.verdict) == (State.ROLLED_BACK, Verdict.ERROR_RATE_WORSE)
    elif is_cut_off:
        assert (run.progress.state, run.progress.verdict) == (State.ROLLED_BACK, Verdict.DEADLINE_PASSED)
    else:
        assert (run.progress.state, run.progress.verdict) == (State.BASELINE, Verdict.ALL_GATES_PASSED)
    assert run.least == replicas
    for _ in range(20):
        run.tick()
    assert {one.role for one in run.pods} == {Role.REPLICA}
    assert {one.revision for one in run.pods} == {run.progress.serving}
    ready = sum(one.is_ready for one in run.pods)
    assert ready == min(run.decided, run.room)


EDITS = st.tuples(
    st.sampled_from([OLD, NEW, THIRD]),
    st.sampled_from([lambda asked: asked, canary, rolling]),
    st.integers(1, 3),  # replicas
    st.integers(1, 40),  # ticks until the next edit
)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2), st.booleans(), st.lists(EDITS, min_size=1, max_size=4))
def test_whatever_is_edited_meanwhile_it_settles_without_shadow_pods(
    spare: int, is_bad: bool, edits: list[Any]
) -> None:
    run = Cluster(2 + spare, 2, is_bad=is_bad)
    for asked, by, replicas, ticks in edits:
        run.asked, run.replicas = by(asked), min(replicas, 2 + spare)
        for _ in range(ticks):
            run.tick()
    for _ in range(300):
        run.tick()
    assert run.progress.state in {State.BASELINE, State.ROLLED_BACK}
    assert {(one.role, one.revision) for one in run.pods} == {(Role.REPLICA, run.progress.serving)}
    assert sum(one.is_ready for one in run.pods) == run.replicas
