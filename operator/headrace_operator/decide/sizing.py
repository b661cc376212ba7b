"""Pods of one revision, as many as were decided: who is created, and who leaves first."""

import math

from headrace_operator.decide import manifests, standby
from headrace_operator.decide.actions import Action, CreatePod, DeletePod, Unroute
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision, Role
from headrace_operator.service import InferenceDeployment

_STANDS_IN = "warm standby becomes a replica"


def size(deployment: InferenceDeployment, revision: Revision, observed: Observed, decision: Decision) -> list[Action]:
    """A pod that will be lost serves on until as many others are ready as were decided."""
    staying = [pod for pod in observed.live if pod.loss_announced is None]
    not_ready = decision.replicas - sum(pod.is_ready for pod in staying)
    stand_ins = standby.warm(observed, revision.hash)[: max(0, not_ready)]
    surplus = len(staying) + len(stand_ins) - decision.replicas
    if surplus < 0:  # every warm one is needed, and more
        actions = create(deployment, revision, observed, len(stand_ins) - surplus)
    else:
        room = standby.wanted_more(observed, deployment.scaling.warm_standby) + len(stand_ins)
        victims = sorted(staying, key=victim_order)[:surplus]
        demoted, removed = standby.demote(victims, room)
        actions = standby.promote(stand_ins, _STANDS_IN) + demoted + [remove(pod, decision.reason) for pod in removed]
    return actions + let_go(observed, decision.replicas)


def create(deployment: InferenceDeployment, revision: Revision, observed: Observed, number: int) -> list[Action]:
    """So many more replicas: standbys become some, the warmest first; the rest are new pods."""
    stand_ins = (standby.warm(observed, revision.hash) + standby.loading(observed, revision.hash))[:number]
    new = number - len(stand_ins)
    return standby.promote(stand_ins, _STANDS_IN) + order(deployment, revision, observed, new, Role.REPLICA)


def order(
    deployment: InferenceDeployment, revision: Revision, observed: Observed, number: int, role: Role
) -> list[Action]:
    """With the lowest free ordinals: names are deterministic, so that a stale leader collides instead of adding."""
    taken = {pod.ordinal for pod in observed.everybody}
    free = [ordinal for ordinal in range(len(taken) + number) if ordinal not in taken][:number]
    return [CreatePod(manifests.pod(deployment, revision, ordinal, role)) for ordinal in free]


def tend_standby(deployment: InferenceDeployment, revision: Revision, observed: Observed) -> list[Action]:
    """As many standby pods as wanted. For a tick that creates no replica and changes no role: those come first."""
    wanted = deployment.scaling.warm_standby
    missing = max(0, standby.wanted_more(observed, wanted))
    if observed.standby_room is not None:
        missing = min(missing, observed.standby_room)
    new = order(deployment, revision, observed, missing, Role.STANDBY)
    return standby.thin_out(observed, revision.hash, wanted) + new


def ordered(actions: list[Action], role: Role) -> int:
    """How many pods a plan makes for this."""
    made = [action.body["metadata"]["labels"] for action in actions if isinstance(action, CreatePod)]
    return sum(labels[manifests.ROLE_LABEL] == role for labels in made)


def let_go(observed: Observed, replicas: int) -> list[Action]:
    """Pods that will be lost, once enough others are ready."""
    spare = len(observed.ready) - replicas
    doomed = [pod for pod in observed.live if pod.loss_announced is not None]
    leaving = sorted((pod for pod in doomed if pod.is_ready), key=victim_order)[: max(0, spare)]
    if spare >= 0:
        leaving += [pod for pod in doomed if not pod.is_ready]
    return [remove(pod, f"replaced: {pod.loss_announced}") for pod in leaving]


def remove(pod: PodState, why: str) -> Action:
    if pod.is_ready:
        return Unroute(pod.name, pod.uid, why)
    return DeletePod(pod.name, pod.uid, why)


def victim_order(pod: PodState) -> tuple[bool, bool, bool, float, float]:
    """First to go: what waits for a GPU, what is not ready, what will be lost, what carries least, what is youngest.

    What did not answer counts as full: unknown is not zero.
    """
    carries = pod.sample.running + pod.sample.waiting if pod.sample else math.inf
    is_placed = pod.phase is not PodPhase.UNSCHEDULABLE
    return is_placed, pod.is_ready, pod.loss_announced is None, carries, -pod.created_at
