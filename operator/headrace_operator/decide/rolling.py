"""From one revision to the next without losing a request: surge by one, or on a full cluster by none."""

from headrace_operator.decide import standby
from headrace_operator.decide.actions import Action, Announce, DeletePod
from headrace_operator.decide.reasons import Announcement
from headrace_operator.decide.sizing import create, remove, victim_order
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision
from headrace_operator.service import InferenceDeployment

NO_ROOM = "Insufficient "  # in the scheduler's words, before the resource that a node lacks


def waits_for_room(pod: PodState) -> bool:
    """The scheduler would place it if something left; a selector that no node matches is no such case."""
    return pod.phase is PodPhase.UNSCHEDULABLE and NO_ROOM in pod.message


def roll(
    deployment: InferenceDeployment, revision: Revision, observed: Observed, old: list[PodState], replicas: int
) -> list[Action]:
    """One at a time: a new pod first, then an old one leaves. On a full cluster the old one leaves first."""
    new = [pod for pod in observed.live if pod not in old]
    if useless := [pod for pod in old if not pod.is_ready]:  # one that serves nobody gives its GPU to the new revision
        return [DeletePod(pod.name, pod.uid, "of an old revision and not ready") for pod in useless]
    victims = sorted(old, key=victim_order)
    spare = len(observed.live) - replicas
    if spare < 0:
        return create(deployment, revision, observed, -spare)
    if (surplus := spare - bool(new)) > 0:  # the decision fell meanwhile; beside one that replaces, nobody is spare
        leaving = sorted(observed.live, key=lambda pod: (pod.is_ready, pod in new, victim_order(pod)))
        return [remove(pod, "fewer replicas are needed") for pod in leaving[:surplus]]
    if any(waits_for_room(pod) for pod in new):
        return _make_room(observed, revision, victims[0])
    if not all(pod.is_ready for pod in new):
        return []
    return (
        [remove(victims[0], "replaced by the new revision")] if spare else _surge(deployment, revision, observed, new)
    )


def _make_room(observed: Observed, revision: Revision, victim: PodState) -> list[Action]:
    """What leaves already makes room, even if its drain takes minutes; only then another pod leaves."""
    is_leaving = any(not pod.is_live and not pod.is_standby for pod in observed.pods)
    if is_leaving:
        return []
    why = "full cluster: the old pod leaves before its replacement starts"
    return standby.make_room(observed, revision.hash) or [remove(victim, why)]


def _surge(
    deployment: InferenceDeployment, revision: Revision, observed: Observed, new: list[PodState]
) -> list[Action]:
    created = create(deployment, revision, observed, 1)
    if new:
        return created
    message = f"{len(observed.live)} pods are replaced one by one by revision {revision.hash}"
    return [Announce(Announcement.ROLLOUT_STARTED, message), *created]
