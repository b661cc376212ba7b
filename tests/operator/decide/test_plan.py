from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.actions import Action, Announce, CreatePod, DeletePod, Unroute
from headrace_operator.decide.plan import plan
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase, PodState
from hypothesis import given
from hypothesis import strategies as st
from observations import IMAGE, NOW, decided, deployment, pod, recorded, sample, settled, signals

CURRENT = recorded().hash


def decision(replicas: int, *, current: int | None = None, reason: Reason = Reason.STEADY) -> Decision:
    usual = decided(1, signals(1, load=1.0))
    return replace(usual, replicas=replicas, current=replicas if current is None else current, reason=reason)


def planned(replicas: int, *pods: PodState, **changes: Any) -> list[Action]:
    seen = Observed(pods, (recorded(),))
    return plan(deployment(), IMAGE, seen, decision(replicas, **changes), progress=settled(), said=None, now=NOW)


ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def current(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, revision=CURRENT, **changes)


def created(actions: list[Action]) -> list[str]:
    return [action.body["metadata"]["name"] for action in actions if isinstance(action, CreatePod)]


def leaving(actions: list[Action]) -> list[str]:
    return [action.name for action in actions if isinstance(action, Unroute | DeletePod)]


def test_a_settled_deployment_needs_no_action() -> None:
    assert planned(2, current(0), current(1)) == []


def test_missing_pods_take_the_lowest_free_ordinals() -> None:
    names = created(planned(4, current(1), current(2, PodPhase.TERMINATING)))
    assert names == [f"llama-{CURRENT[:5]}-{ordinal}" for ordinal in (0, 3, 4)]


@pytest.mark.parametrize(
    ("pods", "victim"),
    [
        pytest.param(
            [current(0), current(1, PodPhase.UNSCHEDULABLE), current(2, PodPhase.STARTING)],
            "llama-1",
            id="what waits for a GPU goes first",
        ),
        pytest.param(
            [current(0, sample=sample(running=0)), current(1, PodPhase.STARTING)],
            "llama-1",
            id="then what is not ready",
        ),
        pytest.param(
            [current(0, sample=sample(running=9)), current(1, sample=sample(running=2, waiting=1))],
            "llama-1",
            id="then what carries least",
        ),
        pytest.param(
            [current(0, created_at=NOW - 50), current(1, created_at=NOW - 10), current(2, created_at=NOW - 90)],
            "llama-1",
            id="then the youngest",
        ),
    ],
)
def test_the_victim(pods: list[PodState], victim: str) -> None:
    assert leaving(planned(len(pods) - 1, *pods)) == [victim]


def test_a_ready_pod_leaves_the_service_before_it_is_told_to_stop() -> None:
    (action,) = planned(1, current(0), current(1, created_at=NOW))
    assert action == Unroute("llama-1", "uid-1", Reason.STEADY)


@pytest.mark.parametrize(
    ("seconds", "deleted"),
    [pytest.param(2.9, [], id="routers may not know yet"), pytest.param(3.0, ["llama-1"], id="routers know")],
)
def test_an_unrouted_pod_is_deleted_three_seconds_later(seconds: float, deleted: list[str]) -> None:
    actions = planned(1, current(0), current(1, routable=False, unrouted_at=NOW - seconds))
    assert leaving(actions) == deleted
    assert created(actions) == []


def test_a_pod_that_is_already_stopping_is_left_to_it() -> None:
    assert planned(1, current(0), current(1, PodPhase.TERMINATING, routable=False, unrouted_at=NOW - 60)) == []


def test_a_lost_pod_is_deleted_and_replaced() -> None:
    actions = planned(2, current(0), current(1, PodPhase.LOST, message="evicted: node was low on memory"))
    assert DeletePod("llama-1", "uid-1", "lost: evicted: node was low on memory") in actions
    assert created(actions) == [f"llama-{CURRENT[:5]}-2"]


@pytest.mark.parametrize("phase", [PodPhase.MODEL_REFUSED, PodPhase.CRASH_LOOPING, PodPhase.IMAGE_PULL_FAILED])
def test_a_pod_that_fails_is_left_to_its_restarts(phase: PodPhase) -> None:
    assert planned(2, current(0), current(1, phase, message="no config.json")) == []


def test_an_event_is_news_not_a_heartbeat() -> None:
    risen = decision(3, current=2, reason=Reason.LOAD_ROSE)
    pods = Observed((current(0), current(1)), (recorded(),))
    assert Announce(Reason.LOAD_ROSE, risen.message) in plan(
        deployment(), IMAGE, pods, risen, progress=settled(), said=None, now=NOW
    )
    full = decision(2, reason=Reason.INSUFFICIENT_GPU)
    assert plan(deployment(), IMAGE, pods, full, progress=settled(), said=None, now=NOW) == [
        Announce(Reason.INSUFFICIENT_GPU, full.message, is_warning=True)
    ]
    assert plan(deployment(), IMAGE, pods, full, progress=settled(), said=Reason.INSUFFICIENT_GPU, now=NOW) == []


def test_a_new_revision_begins_with_one_more_pod() -> None:
    assert created(planned(2, pod(0), pod(1))) == [f"llama-{CURRENT[:5]}-2"]


def test_an_old_pod_leaves_only_when_the_new_one_is_ready() -> None:
    assert planned(2, pod(0), pod(1), current(2, PodPhase.STARTING)) == []
    assert leaving(planned(2, pod(0), pod(1, created_at=NOW), current(2))) == ["llama-1"]


def test_on_a_full_cluster_one_old_pod_leaves_first_and_only_one() -> None:
    waiting = current(2, PodPhase.UNSCHEDULABLE, message=ROOM)
    (action,) = planned(2, pod(0), pod(1, created_at=NOW), waiting)
    assert isinstance(action, Unroute)
    assert action.why.startswith("full cluster")
    drains = pod(1, routable=False, unrouted_at=NOW - 1)
    assert planned(2, pod(0), drains, waiting) == []
    assert planned(2, pod(0), pod(1, PodPhase.TERMINATING), waiting) == []


def test_a_new_pod_that_fits_nowhere_takes_nobodys_place() -> None:
    nowhere = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    assert planned(2, pod(0), pod(1), current(2, PodPhase.UNSCHEDULABLE, message=nowhere)) == []


@pytest.mark.parametrize(
    ("pods", "leaves"),
    [
        pytest.param([pod(0), pod(1, created_at=NOW)], ["llama-1"], id="an old pod leaves first"),
        pytest.param([pod(0), pod(1, PodPhase.TERMINATING)], [], id="and only one"),
        pytest.param([pod(0), current(2, PodPhase.LOADING)], [], id="and the next one when its replacement is ready"),
        pytest.param([pod(0), current(2)], ["llama-0"], id="which it is now"),
    ],
)
def test_where_a_quota_or_a_budget_is_full_there_is_no_surge(pods: list[PodState], leaves: list[str]) -> None:
    replicas = len([state for state in pods if state.is_live])
    refused = Observed(tuple(pods), (recorded(),), refused="exceeded quota: gpus")
    budget = replace(decision(replicas).situation, budget=replicas)
    held = replace(decision(replicas), situation=budget)
    for seen, decided_on in ((refused, decision(replicas)), (replace(refused, refused=None), held)):
        actions = plan(deployment(), IMAGE, seen, decided_on, progress=settled(), said=None, now=NOW)
        assert (created(actions), leaving(actions)) == ([], leaves)


def test_a_new_revision_that_is_refused_stops_the_rollout_and_keeps_what_serves() -> None:
    assert planned(2, pod(0), pod(1), current(2, PodPhase.MODEL_REFUSED, message="no config.json")) == []


def test_an_old_pod_that_serves_nobody_gives_way_at_once() -> None:
    actions = planned(2, pod(0), pod(1, PodPhase.CRASH_LOOPING))
    assert leaving(actions) == ["llama-1"]


def test_load_that_rises_during_a_rollout_is_not_kept_waiting() -> None:
    assert len(created(planned(6, pod(0), pod(1), current(2, PodPhase.STARTING)))) == 3


def test_load_that_falls_during_a_rollout_takes_what_serves_nobody_first() -> None:
    pods = (pod(0), pod(1), pod(2), current(3, PodPhase.STARTING))
    assert leaving(planned(1, *pods)) == ["llama-3", "llama-0"]


def test_load_that_falls_during_a_rollout_takes_old_pods_before_new_ones() -> None:
    busy = [pod(n, sample=sample(running=9)) for n in range(3)]
    idle = [current(n, sample=sample(running=0)) for n in (3, 4)]
    assert leaving(planned(2, *busy, *idle)) == ["llama-0", "llama-1"]


phases = st.sampled_from([PodPhase.READY, PodPhase.STARTING, PodPhase.UNSCHEDULABLE, PodPhase.CRASH_LOOPING])


@given(st.integers(1, 8), st.lists(st.tuples(phases, st.booleans(), st.integers(0, 9)), max_size=10))
def test_a_plan_never_takes_more_than_it_should(replicas: int, drawn: list[tuple[PodPhase, bool, int]]) -> None:
    """With one revision: exactly the difference. With two: never fewer live pods than decided, but for one."""
    pods = tuple(
        pod(n, phase, revision="old" if is_old else CURRENT, sample=sample(running=load))
        for n, (phase, is_old, load) in enumerate(drawn)
    )
    actions = planned(replicas, *pods)
    change = len(created(actions)) - len(leaving(actions))
    assert len(set(leaving(actions))) == len(leaving(actions))
    if not any(is_old for _, is_old, _ in drawn):
        assert len(pods) + change == replicas
    else:
        serving = [p for p in pods if p.is_ready and p.name not in leaving(actions)]
        assert len(serving) >= min(replicas, len([p for p in pods if p.is_ready])) - 1


def test_a_rollout_comes_to_its_end() -> None:
    """Applied again and again, with new pods that start at once: all pods are new, and as many as decided."""
    pods = [pod(n) for n in range(3)]
    for _ in range(20):
        actions = planned(3, *pods)
        gone = set(leaving(actions))
        names = created(actions)
        pods = [p for p in pods if p.name not in gone]
        pods += [current(int(name.rsplit("-", 1)[1]), name=name, uid=name) for name in names]
        assert len(pods) >= 3
    assert [p.revision for p in pods] == [CURRENT] * 3
    assert planned(3, *pods) == []
