"""From the wanted number to a list of actions, as values. Applying an empty plan is what a settled system does."""

from dataclasses import dataclass

from headrace_operator.decide import manifests
from headrace_operator.decide.manifests import Body
from headrace_operator.decide.reasons import Announcement, Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.service import InferenceDeployment

ROUTE_SETTLE = 3.0  # seconds between leaving the Service and SIGTERM: routers learn of it meanwhile


@dataclass(frozen=True, slots=True)
class ApplyService:
    body: Body


@dataclass(frozen=True, slots=True)
class CreatePod:
    body: Body


@dataclass(frozen=True, slots=True)
class Unroute:
    """Take a pod out of the Service; it is deleted ROUTE_SETTLE later."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """The server drains on SIGTERM within the pod's grace period."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Announce:
    """A Kubernetes event on the custom resource."""

    reason: Reason | Announcement
    message: str
    is_warning: bool = False


Action = ApplyService | CreatePod | Unroute | DeletePod | Announce
_GONE = {PodPhase.TERMINATING, PodPhase.LOST}
_WARNINGS = {Reason.INSUFFICIENT_GPU, Reason.MODEL_REFUSED, Reason.METRICS_MISSING, Reason.AT_MAXIMUM}


def plan(
    deployment: InferenceDeployment,
    image: str,
    observed: Observed,
    decision: Decision,
    *,
    said: Reason | None,
    now: float,
) -> list[Action]:
    """`said`: the reason that was announced last; an event is news, not a heartbeat."""
    actions: list[Action] = _announcements(decision, said)
    actions += _leave(observed, now)
    current = manifests.revision(deployment, image)
    old = [pod for pod in observed.live if pod.revision != current]
    if old:
        actions += _roll(deployment, image, observed, old, decision.replicas)
    else:
        actions += _size(deployment, image, observed, decision)
    return actions


def _announcements(decision: Decision, said: Reason | None) -> list[Action]:
    is_news = decision.replicas != decision.current or (decision.reason in _WARNINGS and decision.reason is not said)
    return [Announce(decision.reason, decision.message, decision.reason in _WARNINGS)] if is_news else []


def _leave(observed: Observed, now: float) -> list[Action]:
    """Unrouted pods whose routers had time to notice, and pods that will never run again."""
    lost: list[Action] = [
        DeletePod(pod.name, pod.uid, f"lost: {pod.message}") for pod in observed.pods if pod.phase is PodPhase.LOST
    ]
    return lost + [
        DeletePod(pod.name, pod.uid, "drains")
        for pod in observed.pods
        if not pod.routable and pod.phase not in _GONE and now - (pod.unrouted_at or 0.0) >= ROUTE_SETTLE
    ]


def _size(deployment: InferenceDeployment, image: str, observed: Observed, decision: Decision) -> list[Action]:
    live = observed.live
    missing = decision.replicas - len(live)
    if missing >= 0:
        return _create(deployment, image, observed, missing)
    return [_remove(pod, decision.reason) for pod in sorted(live, key=_victim_order)[:-missing]]


def _roll(
    deployment: InferenceDeployment, image: str, observed: Observed, old: list[PodState], replicas: int
) -> list[Action]:
    """One at a time: a new pod first, then an old one leaves. On a full cluster the old one leaves first."""
    new = [pod for pod in observed.live if pod not in old]
    if useless := [pod for pod in old if not pod.is_ready]:  # one that serves nobody gives its GPU to the new revision
        return [DeletePod(pod.name, pod.uid, "of an old revision and not ready") for pod in useless]
    victims = sorted(old, key=_victim_order)
    spare = len(observed.live) - replicas
    if spare < 0:
        return _create(deployment, image, observed, -spare)
    if (surplus := spare - bool(new)) > 0:  # the decision fell meanwhile; beside one that replaces, nobody is spare
        return [_remove(pod, "fewer replicas are needed") for pod in sorted(observed.live, key=_victim_order)[:surplus]]
    if any(pod.phase is PodPhase.UNSCHEDULABLE for pod in new):
        return _make_room(observed, victims[0])
    if not all(pod.is_ready for pod in new):
        return []
    return [_remove(victims[0], "replaced by the new revision")] if spare else _surge(deployment, image, observed, new)


def _make_room(observed: Observed, victim: PodState) -> list[Action]:
    """What leaves already makes room, even if its drain takes minutes; only then another pod leaves."""
    is_leaving = len(observed.live) < len(observed.pods)
    return [] if is_leaving else [_remove(victim, "full cluster: the old pod leaves before its replacement starts")]


def _surge(deployment: InferenceDeployment, image: str, observed: Observed, new: list[PodState]) -> list[Action]:
    created = _create(deployment, image, observed, 1)
    if new:
        return created
    message = f"{len(observed.live)} pods are replaced one by one by revision {manifests.revision(deployment, image)}"
    return [Announce(Announcement.ROLLOUT_STARTED, message), *created]


def _create(deployment: InferenceDeployment, image: str, observed: Observed, number: int) -> list[Action]:
    """The lowest free ordinals: names are deterministic, so that a stale leader collides instead of adding."""
    taken = {pod.ordinal for pod in observed.pods}
    free = [ordinal for ordinal in range(len(taken) + number) if ordinal not in taken][:number]
    return [CreatePod(manifests.pod(deployment, image, ordinal)) for ordinal in free]


def _remove(pod: PodState, why: str) -> Action:
    if pod.is_ready:
        return Unroute(pod.name, pod.uid, why)
    return DeletePod(pod.name, pod.uid, why)


def _victim_order(pod: PodState) -> tuple[bool, bool, int, float]:
    """First to go: what waits for a GPU, what is not ready, what carries least, what is youngest."""
    carries = pod.sample.running + pod.sample.waiting if pod.sample else 0
    return pod.phase is not PodPhase.UNSCHEDULABLE, pod.is_ready, carries, -pod.created_at
