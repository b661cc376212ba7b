"""From one revision to the next without losing a request: surge by one, or on a full cluster by none."""

from headrace_operator.decide import standby
from headrace_operator.decide.actions import Action, DeletePod
from headrace_operator.decide.sizing import create, remove, victim_order
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision
from headrace_operator.service import InferenceDeployment

NO_ROOM = "Insufficient "  # in the scheduler's words, before the resource that a node lacks


def waits_for_room(pod: PodState) -> bool:
    """The scheduler would place it if something left; a selector that no node matches is no such case."""
    return pod.phase is PodPhase.UNSCHEDULABLE and NO_ROOM in pod.message


def is_full(observed: Observed, budget: int | None) -> bool:
    """No pod may be added: a quota refused the last one, or `budget` (replicas) leaves no more."""
    return observed.refused is not None or (budget is not None and len(observed.live) >= budget)


def is_leaving(observed: Observed) -> bool:
    """Something drains or stops, and so makes room."""
    return any(not pod.is_live and not pod.is_standby for pod in observed.pods)


def roll(
    deployment: InferenceDeployment, revision: Revision, observed: Observed, replicas: int, *, full: bool
) -> list[Action]:
    """One at a time: a new pod first, then an old one leaves. On a full cluster the old one leaves first.

    `full`: see `is_full`; a cluster without a free GPU shows by a new pod that waits for room.
    """
    new = [pod for pod in observed.live if pod.revision == revision.hash]
    old = [pod for pod in observed.live if pod.revision != revision.hash]
    if useless := [pod for pod in old if not pod.is_ready]:  # one that serves nobody gives its GPU to the new revision
        return [DeletePod(pod.name, pod.uid, "of an old revision and not ready") for pod in useless]
    spare = len(observed.live) - replicas
    if spare < 0:
        return create(deployment, revision, observed, -spare)
    if (surplus := spare - bool(new)) > 0:  # the decision fell meanwhile; beside one that replaces, nobody is spare
        leaving = sorted(observed.live, key=lambda pod: (pod.is_ready, pod in new, victim_order(pod)))
        return [remove(pod, "fewer replicas are needed") for pod in leaving[:surplus]]
    victim = min(old, key=victim_order)
    is_stuck = any(waits_for_room(pod) for pod in new)
    if not is_stuck and not all(pod.is_ready for pod in new):
        return []
    if spare and not is_stuck:
        return [remove(victim, "replaced by the new revision")]
    no_surge = is_stuck or full
    return make_room(observed, revision, victim) if no_surge else create(deployment, revision, observed, 1)


def make_room(observed: Observed, revision: Revision, victim: PodState) -> list[Action]:
    """What leaves already makes room, even if its drain takes minutes; only then another pod leaves."""
    if is_leaving(observed):
        return []
    why = "full cluster: the old pod leaves before its replacement starts"
    return standby.make_room(observed, revision.hash) or [remove(victim, why)]
