"""Planned actions to API calls, in order. Every write is safe to repeat, and safe when a stale leader makes it."""

from dataclasses import dataclass
from typing import Any, assert_never

from headrace_operator import kube
from headrace_operator.act.events import Recorder
from headrace_operator.decide import manifests
from headrace_operator.decide.actions import (
    Action,
    Announce,
    ApplyService,
    CreatePod,
    CreateRevision,
    DeletePod,
    DeleteRevision,
    Unroute,
)
from headrace_operator.decide.reasons import Announcement
from headrace_operator.kube import Kube, KubeError


@dataclass(frozen=True, slots=True)
class Target:
    """The object that the actions are for."""

    namespace: str
    name: str
    uid: str


async def apply(api: Kube, recorder: Recorder, target: Target, actions: list[Action], now: float) -> list[kube.Body]:
    """Pods and revisions as written, which the watch may show only later: the next tick must not plan the same again.

    Raises KubeError at the first call that fails; the next tick plans again from what is.
    """
    written = [await _apply(api, recorder, target, action, now) for action in actions]
    return [child for child in written if child]


async def _apply(api: Kube, recorder: Recorder, target: Target, action: Action, now: float) -> kube.Body | None:
    match action:
        case ApplyService(body):
            await api.apply(kube.services(target.namespace, body["metadata"]["name"]), body)
        case CreateRevision(body):
            return await api.create(kube.revisions(target.namespace), body)
        case DeleteRevision(name, uid):
            await api.delete(kube.revisions(target.namespace, name), uid)
        case CreatePod(body):
            name = body["metadata"]["name"]
            created = await api.apply(kube.pods(target.namespace, name), body)
            await recorder.record(target, Announcement.POD_CREATED, f"pod {name}", now=now)
            return created
        case Unroute(name, uid, why):
            unrouted = await _unroute(api, target, name, uid, now)
            await recorder.record(target, Announcement.POD_UNROUTED, f"pod {name}: {why}", now=now)
            return unrouted
        case DeletePod(name, uid, why):
            await api.delete(kube.pods(target.namespace, name), uid)
            await recorder.record(target, Announcement.POD_DELETED, f"pod {name}: {why}", now=now)
        case Announce(reason, message, is_warning):
            await recorder.record(target, reason, message, now=now, is_warning=is_warning)
        case _:
            assert_never(action)
    return None


async def _unroute(api: Kube, target: Target, name: str, uid: str, now: float) -> kube.Body | None:
    """The pod as written, or None when it is gone already, which is what we wanted."""
    metadata: dict[str, Any] = {
        "uid": uid,  # a precondition: 409 for another pod of the same name
        "labels": {manifests.ROUTABLE_LABEL: "false"},
        "annotations": {manifests.UNROUTED_ANNOTATION: f"{now:.1f}"},
    }
    try:
        return await api.merge(kube.pods(target.namespace, name), {"metadata": metadata})
    except KubeError as error:
        if error.status not in {404, 409}:
            raise
        return None
