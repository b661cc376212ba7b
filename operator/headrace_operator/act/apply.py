"""Planned actions to API calls, in order. Every write is safe to repeat, and safe when a stale leader makes it."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, assert_never

from headrace_operator import kube
from headrace_operator.act.drainer import Drainer
from headrace_operator.act.events import Recorder
from headrace_operator.decide import manifests, routing
from headrace_operator.decide.actions import (
    Action,
    Announce,
    ApplyBudget,
    ApplyRouting,
    ApplyService,
    CreatePod,
    CreateRevision,
    DeletePod,
    DeleteRevision,
    DeleteRouting,
    Demote,
    Drain,
    Promote,
    Unroute,
)
from headrace_operator.decide.reasons import Announcement
from headrace_operator.decide.values import Role
from headrace_operator.kube import ApiUnavailable, Kube, KubeError

QUOTA = "exceeded quota"  # in the API server's words when a ResourceQuota refuses a pod
GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}  # 409: another pod of the same name


@dataclass(frozen=True, slots=True)
class Target:
    """The object that the actions are for."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Hands:
    """What actions are carried out with."""

    api: Kube
    recorder: Recorder
    drainer: Drainer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was written, which the watch may show only later: the next tick must not plan the same again."""

    children: tuple[kube.Body, ...] = ()  # pods, revisions, Services and disruption budgets
    refused: str | None = None  # why no more pods were created: a ResourceQuota
    no_routing: str | None = None  # why what spec.routing asks for could not be made, or taken back


async def apply(hands: Hands, target: Target, actions: list[Action], now: float) -> Outcome:
    """Raises KubeError at the first call that fails; the next tick plans again from what is.

    A ResourceQuota that refuses a pod is no failure but a fact: the next pod would be refused alike. So is what the
    API server does not let us make for spec.routing: replicas serve all the same.
    """
    await hands.drainer.ask([action for action in actions if isinstance(action, Drain)])
    children: list[kube.Body] = []
    refused: str | None = None
    no_routing: str | None = None
    for action in actions:
        if isinstance(action, CreatePod) and refused is not None:
            continue
        try:
            child = await _apply(hands, target, action, now)
        except KubeError as error:
            if isinstance(action, ApplyRouting | DeleteRouting) and not isinstance(error, ApiUnavailable):
                no_routing = no_routing or routing.refusal(action, error.status, str(error))
            elif _is_refusal(action, error):
                refused = str(error)
            else:
                raise
        else:
            children += [child] if child else []
    return Outcome(tuple(children), refused, no_routing)


def _is_refusal(action: Action, error: KubeError) -> bool:
    return isinstance(action, CreatePod) and error.status == HTTPStatus.FORBIDDEN and QUOTA in str(error)


async def _apply(hands: Hands, target: Target, action: Action, now: float) -> kube.Body | None:
    api, record = hands.api, hands.recorder.record
    match action:
        case ApplyService(body) | ApplyBudget(body) | ApplyRouting(body):
            return await api.apply(kube.STANDING[body["kind"]](target.namespace, body["metadata"]["name"]), body)
        case DeleteRouting(kind, name, uid):
            await api.delete(kube.STANDING[kind](target.namespace, name), uid)
        case CreateRevision(body):
            return await api.create(kube.revisions(target.namespace), body)
        case DeleteRevision(name, uid):
            await api.delete(kube.revisions(target.namespace, name), uid)
        case CreatePod(body):
            name = body["metadata"]["name"]
            created = await api.apply(kube.pods(target.namespace, name), body)
            await record(target, Announcement.POD_CREATED, f"pod {name}", now=now)
            return created
        case Unroute() | Promote() | Demote():
            return await _relabel(hands, target, action, now)
        case DeletePod(name, uid, why):
            await api.delete(kube.pods(target.namespace, name), uid)
            await record(target, Announcement.POD_DELETED, f"pod {name}: {why}", now=now)
        case Announce(reason, message, is_warning):
            await record(target, reason, message, now=now, is_warning=is_warning)
        case Drain():
            pass  # all of them were told at once
        case _:
            assert_never(action)
    return None


async def _relabel(hands: Hands, target: Target, action: Unroute | Promote | Demote, now: float) -> kube.Body | None:
    """The pod as written, or None when it is gone already: then nothing routes to it."""
    metadata = {"uid": action.uid, **_labels(action, now)}  # the UID is a precondition: 409 for another pod
    try:
        written = await hands.api.merge(kube.pods(target.namespace, action.name), {"metadata": metadata})
    except KubeError as error:
        if error.status not in GONE:
            raise
        return None
    await hands.recorder.record(target, _ANNOUNCED[type(action)], f"pod {action.name}: {action.why}", now=now)
    return written


_ANNOUNCED = {
    Unroute: Announcement.POD_UNROUTED,
    Promote: Announcement.POD_PROMOTED,
    Demote: Announcement.POD_DEMOTED,
}


def _labels(action: Unroute | Promote | Demote, now: float) -> dict[str, Any]:
    match action:
        case Unroute():
            unrouted = {manifests.UNROUTED_ANNOTATION: f"{now:.1f}"}
            return {"labels": {manifests.ROUTABLE_LABEL: "false"}, "annotations": unrouted}
        case Promote():
            return {"labels": manifests.role_labels(Role.REPLICA)}
        case Demote():
            return {"labels": manifests.role_labels(Role.STANDBY)}
