"""From one revision to the next without losing a request: surge by one, or on a full cluster by none."""

from headrace_operator.decide.actions import Action, Announce, DeletePod
from headrace_operator.decide.reasons import Announcement
from headrace_operator.decide.sizing import create, remove, victim_order
from headrace_operator.decide.values import Observed, PodPhase, PodState, Revision
from headrace_operator.service import InferenceDeployment


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
        return [remove(pod, "fewer replicas are needed") for pod in sorted(observed.live, key=victim_order)[:surplus]]
    if any(pod.phase is PodPhase.UNSCHEDULABLE for pod in new):
        return _make_room(observed, victims[0])
    if not all(pod.is_ready for pod in new):
        return []
    return (
        [remove(victims[0], "replaced by the new revision")] if spare else _surge(deployment, revision, observed, new)
    )


def _make_room(observed: Observed, victim: PodState) -> list[Action]:
    """What leaves already makes room, even if its drain takes minutes; only then another pod leaves."""
    is_leaving = len(observed.live) < len(observed.pods)
    return [] if is_leaving else [remove(victim, "full cluster: the old pod leaves before its replacement starts")]


def _surge(
    deployment: InferenceDeployment, revision: Revision, observed: Observed, new: list[PodState]
) -> list[Action]:
    created = create(deployment, revision, observed, 1)
    if new:
        return created
    message = f"{len(observed.live)} pods are replaced one by one by revision {revision.hash}"
    return [Announce(Announcement.ROLLOUT_STARTED, message), *created]
