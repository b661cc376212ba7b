"""Standby pods and announced losses, through the door that plans everything."""

from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide.actions import Action, CreatePod, DeletePod, Demote, Promote, Unroute
from headrace_operator.decide.manifests import ROLE_LABEL
from headrace_operator.decide.plan import plan
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.values import Observed, PodPhase, PodState, Role
from headrace_operator.service import Mode
from hypothesis import given
from hypothesis import strategies as st
from observations import IMAGE, NOW, decided, deployment, pod, recorded, sample, scaling, settled, signals

CURRENT = recorded().hash
CORDON = "node gpu-a is cordoned"


def planned(
    replicas: int, *pods: PodState, standby: int = 0, mode: Mode = Mode.AUTO, room: int | None = None
) -> list[Action]:
    asked = deployment(scaling=scaling(warm_standby=standby, mode=mode))
    decision = replace(decided(1, signals(1, load=1.0)), replicas=replicas, reason=Reason.STEADY)
    seen = Observed(pods, (recorded(),), standby_room=room)
    actions = plan(asked, IMAGE, seen, decision, progress=settled(), said=Reason.STEADY, now=NOW)
    return [action for action in actions if isinstance(action, CreatePod | DeletePod | Unroute | Promote | Demote)]


def replica(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return pod(ordinal, phase, **{"revision": CURRENT, **changes})


def spare(ordinal: int, phase: PodPhase = PodPhase.READY, **changes: Any) -> PodState:
    return replica(ordinal, phase, **{"role": Role.STANDBY, "routable": False, **changes})


def told(actions: list[Action]) -> list[tuple[str, str]]:
    """Each action with its pod; a new pod by its role."""
    return [
        ("CreatePod", action.body["metadata"]["labels"][ROLE_LABEL])
        if isinstance(action, CreatePod)
        else (type(action).__name__, action.name)
        for action in actions
        if isinstance(action, CreatePod | DeletePod | Unroute | Promote | Demote)
    ]


@pytest.mark.parametrize(("room", "made"), [(None, 3), (5, 3), (2, 2), (0, 0)])
def test_standby_pods_keep_to_the_budget_and_none_leaves_for_it(room: int | None, made: int) -> None:
    actions = told(planned(1, replica(0), spare(1), standby=4, room=room))
    assert actions == [("CreatePod", "standby")] * made


@pytest.mark.parametrize(
    ("replicas", "pods", "expected"),
    [
        pytest.param(1, [replica(0), spare(1)], [], id="settled"),
        pytest.param(1, [replica(0)], [("CreatePod", "standby")], id="refilled"),
        pytest.param(2, [replica(0), spare(1)], [("Promote", "llama-1")], id="promoted, and refilled at the next tick"),
        pytest.param(
            3, [replica(0), spare(1)], [("Promote", "llama-1"), ("CreatePod", "replica")], id="the rest is created"
        ),
        pytest.param(
            2,
            [replica(0), spare(1, PodPhase.LOADING)],
            [("Promote", "llama-1")],
            id="one that loads is ahead of a new one",
        ),
        pytest.param(
            2, [replica(0), spare(1, PodPhase.LOADING), spare(2)], [("Promote", "llama-2")], id="the warm one first"
        ),
        pytest.param(
            2,
            [replica(0), replica(1, PodPhase.LOADING), spare(2)],
            [("Promote", "llama-2"), ("Demote", "llama-1")],
            id="it stands in for one that loads",
        ),
        pytest.param(
            2,
            [replica(0), replica(1, PodPhase.UNSCHEDULABLE), spare(2)],
            [("Promote", "llama-2"), ("Demote", "llama-1")],
            id="it stands in for one without a GPU",
        ),
        pytest.param(
            1,
            [replica(0, PodPhase.LOST), spare(1)],
            [("DeletePod", "llama-0"), ("Promote", "llama-1")],
            id="it stands in for one that was lost",
        ),
        pytest.param(
            1,
            [replica(0), spare(1), spare(2, created_at=NOW)],
            [("DeletePod", "llama-2")],
            id="the youngest is too many",
        ),
        pytest.param(
            1,
            [replica(0), spare(1), spare(2, PodPhase.LOADING)],
            [("DeletePod", "llama-2")],
            id="the cold one is too many",
        ),
        pytest.param(
            1,
            [replica(0), replica(1, PodPhase.LOADING)],
            [("Demote", "llama-1")],
            id="a surplus one that loads is kept",
        ),
        pytest.param(
            1,
            [replica(0, sample=sample(running=9)), replica(1)],
            [("Unroute", "llama-1"), ("CreatePod", "standby")],
            id="a surplus one that serves is drained",
        ),
        pytest.param(
            1,
            [replica(0), spare(1, loss_announced=CORDON)],
            [("CreatePod", "standby")],
            id="one that will be lost is no standby",
        ),
        pytest.param(
            1,
            [replica(0), spare(1, loss_announced=CORDON), spare(2)],
            [("DeletePod", "llama-1")],
            id="and goes when another is warm",
        ),
    ],
)
def test_one_standby(replicas: int, pods: list[PodState], expected: list[tuple[str, str]]) -> None:
    assert told(planned(replicas, *pods, standby=1)) == expected


def test_without_a_wish_for_standby_there_is_none() -> None:
    assert told(planned(1, replica(0), spare(1))) == [("DeletePod", "llama-1")]


def test_in_mode_shadow_no_pod_is_touched() -> None:
    assert planned(3, replica(0), spare(1), replica(2, PodPhase.LOST), standby=2, mode=Mode.SHADOW) == []


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        pytest.param(
            [replica(0, loss_announced=CORDON), replica(1)], [("CreatePod", "replica")], id="replacement first"
        ),
        pytest.param(
            [replica(0, loss_announced=CORDON), replica(1), replica(2, PodPhase.LOADING)],
            [],
            id="it serves on meanwhile",
        ),
        pytest.param(
            [replica(0, loss_announced=CORDON), replica(1), replica(2)],
            [("Unroute", "llama-0")],
            id="it leaves when enough others are ready",
        ),
        pytest.param(
            [replica(0, PodPhase.UNREADY, loss_announced=CORDON), replica(1), replica(2)],
            [("DeletePod", "llama-0")],
            id="one that serves nobody as well",
        ),
        pytest.param(
            [replica(0, loss_announced=CORDON), replica(1, loss_announced=CORDON), replica(2)],
            [("CreatePod", "replica"), ("Unroute", "llama-0")],
            id="one after the other",
        ),
        pytest.param(
            [replica(0), replica(1), replica(2, PodPhase.LOADING)],
            [("DeletePod", "llama-2")],
            id="a cordon that is taken back takes the replacement back",
        ),
    ],
)
def test_an_announced_loss_at_two_replicas(pods: list[PodState], expected: list[tuple[str, str]]) -> None:
    assert told(planned(2, *pods)) == expected


def test_a_warm_standby_replaces_what_will_be_lost_at_once() -> None:
    pods = [replica(0, loss_announced=CORDON), spare(1)]
    assert told(planned(1, *pods, standby=1)) == [("Promote", "llama-1")]


def test_what_does_not_answer_counts_as_full_when_a_victim_is_chosen() -> None:
    assert told(planned(1, replica(0, sample=None), replica(1, sample=sample(running=60)))) == [("Unroute", "llama-1")]


def test_what_computes_on_the_wrong_device_is_unrouted_and_not_replaced() -> None:
    wrong = replica(1, PodPhase.DEVICE_MISMATCH, message="computes on cpu")
    assert planned(2, replica(0), wrong) == [Unroute("llama-1", "uid-1", "computes on cpu")]
    assert planned(2, replica(0), replace(wrong, routable=False)) == []


phases = st.sampled_from([
    PodPhase.READY, PodPhase.LOADING, PodPhase.UNSCHEDULABLE, PodPhase.UNREADY, PodPhase.DEVICE_MISMATCH, PodPhase.LOST,
])  # fmt: skip
drawn_pods = st.lists(st.tuples(phases, st.booleans(), st.booleans()), max_size=8)


def drawn(pods: list[tuple[PodPhase, bool, bool]]) -> list[PodState]:
    """(phase, is standby, loss announced)"""
    return [
        (spare if is_standby else replica)(n, phase, loss_announced=CORDON if is_doomed else None)
        for n, (phase, is_standby, is_doomed) in enumerate(pods)
    ]


def applied(pods: list[PodState], actions: list[Action]) -> list[PodState]:
    """As the API server would have it a moment later; what is created is ready at once, and what loads soon."""
    by_name = {seen.name: seen for seen in pods}
    for action in actions:
        match action:
            case CreatePod(body):
                name, labels = body["metadata"]["name"], body["metadata"]["labels"]
                assert name not in by_name
                role = Role(labels[ROLE_LABEL])
                made = spare if role is Role.STANDBY else replica
                by_name[name] = made(int(name.rsplit("-", 1)[1]), name=name, uid=name, created_at=NOW)
            case DeletePod(name) | Unroute(name):
                by_name.pop(name)
            case Promote(name):
                by_name[name] = replace(by_name[name], role=Role.REPLICA, routable=True)
            case Demote(name):
                by_name[name] = replace(by_name[name], role=Role.STANDBY, routable=False)
    return [
        replace(seen, phase=PodPhase.READY) if seen.phase is PodPhase.LOADING else seen for seen in by_name.values()
    ]


@given(st.integers(1, 6), st.integers(0, 3), drawn_pods)
def test_no_plan_takes_ready_replicas_below_what_was_decided(
    replicas: int, standby: int, pods: list[tuple[PodPhase, bool, bool]]
) -> None:
    before = drawn(pods)
    actions = planned(replicas, *before, standby=standby)
    ready = sum(seen.is_ready for seen in before)
    unrouted = {name for kind, name in told(actions) if kind in {"Unroute", "DeletePod", "Demote"}}
    kept = sum(seen.is_ready and seen.name not in unrouted for seen in before)
    promoted = sum(isinstance(action, Promote) for action in actions)
    assert kept + promoted >= min(ready, replicas)
    names = [name for kind, name in told(actions) if kind != "CreatePod"]
    assert len(names) == len(set(names))  # one thing a pod at a time


@given(st.integers(1, 6), st.integers(0, 3), drawn_pods)
def test_whatever_is_there_it_settles_with_what_was_asked_for(
    replicas: int, standby: int, pods: list[tuple[PodPhase, bool, bool]]
) -> None:
    now = drawn(pods)
    for _ in range(12):
        now = applied(now, planned(replicas, *now, standby=standby))
    assert planned(replicas, *now, standby=standby) == []
    seen = Observed(tuple(now))
    staying = [live for live in seen.live if not live.loss_announced]
    assert len(staying) == replicas
    assert sum(not kept.loss_announced for kept in seen.standby) == standby
    assert len(seen.ready) >= replicas or any(not live.is_ready for live in staying)
    if all(live.is_ready for live in staying):
        assert len(seen.live) == replicas  # what will be lost has gone
    else:
        assert not [kept for kept in seen.standby if kept.is_warm]  # every warm one stands in
