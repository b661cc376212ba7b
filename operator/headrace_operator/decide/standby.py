"""Warm standby: pods that are loaded and not routed. A label makes one a replica, in a moment; then another one loads.

A standby also stands in for a replica that is ordered and not ready (one that loads, was lost, or waits for a GPU): the
two change their roles, and no pod is created or deleted for it.
"""

from collections.abc import Iterable, Sequence

from headrace_operator.decide.actions import Action, DeletePod, Demote, Promote
from headrace_operator.decide.values import Observed, PodPhase, PodState


def warm(observed: Observed, revision: str) -> list[PodState]:
    """Those of this revision that could serve at once, the oldest first."""
    return _by_age(pod for pod in observed.standby if pod.is_warm and pod.revision == revision)


def loading(observed: Observed, revision: str) -> list[PodState]:
    """Those of this revision that are on their way, the furthest first: they are ready sooner than new pods."""
    found = [pod for pod in observed.standby if pod.revision == revision and not pod.is_warm]
    return sorted((pod for pod in found if pod.loss_announced is None), key=_way_to_go)


def promote(pods: Sequence[PodState], why: str) -> list[Action]:
    return [Promote(pod.name, pod.uid, why) for pod in pods]


def wanted_more(observed: Observed, wanted: int) -> int:
    """How many standby pods are missing; those that will be lost are no standby."""
    return wanted - sum(pod.loss_announced is None for pod in observed.standby)


def demote(pods: Sequence[PodState], room: int) -> tuple[list[Action], list[PodState]]:
    """Surplus replicas that are not ready become standbys while some are missing; and those for which there is no room.

    They carry nothing, so nothing has to be drained.
    """
    able = [pod for pod in pods if not pod.is_ready and pod.routable][: max(0, room)]
    kept = {pod.uid for pod in able}
    why = "not ready; a warm standby took its place, or one is missing"
    return [Demote(pod.name, pod.uid, why) for pod in able], [pod for pod in pods if pod.uid not in kept]


def thin_out(observed: Observed, revision: str, wanted: int) -> list[Action]:
    """Standby pods that are of no use: too many, about to be lost, or of a revision that another one replaces.

    One of an old revision goes only when a pod of the new one was seen to serve: until then it may still be needed.
    """
    has_proof = any(pod.revision == revision and pod.phase is PodPhase.READY for pod in observed.pods)
    has_others = sum(pod.is_warm for pod in observed.standby) >= wanted
    kept, actions = [], []
    for pod in observed.standby:
        if pod.revision != revision and has_proof:
            actions.append(DeletePod(pod.name, pod.uid, "standby of an old revision"))
        elif pod.loss_announced is None:
            kept.append(pod)
        elif has_others:
            actions.append(DeletePod(pod.name, pod.uid, f"replaced: {pod.loss_announced}"))
    surplus = sorted(kept, key=lambda pod: (pod.is_warm, pod.revision == revision, -pod.created_at))
    number = max(0, len(kept) - wanted)
    return [*actions, *(DeletePod(pod.name, pod.uid, "more standby pods than wanted") for pod in surplus[:number])]


def make_room(observed: Observed, revision: str) -> list[Action]:
    """On a full cluster an old standby gives its GPU to the new revision before any old replica does."""
    old = [pod for pod in observed.standby if pod.revision != revision]
    return [DeletePod(pod.name, pod.uid, "full cluster: gives its place to the new revision") for pod in old[:1]]


_PROGRESS = (
    PodPhase.READY, PodPhase.WARMING_UP, PodPhase.LOADING, PodPhase.PULLING, PodPhase.STARTING, PodPhase.UNSCHEDULABLE,
)  # fmt: skip


def _way_to_go(pod: PodState) -> tuple[int, float]:
    return _PROGRESS.index(pod.phase) if pod.phase in _PROGRESS else len(_PROGRESS), pod.created_at


def _by_age(pods: Iterable[PodState]) -> list[PodState]:
    return sorted(pods, key=lambda pod: pod.created_at)
