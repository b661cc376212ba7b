"""Status conditions about what is promised, each with a reason and a message that carries numbers or the remedy.

Ready             are minReplicas ready?
ModelValid        did a server load the model? (Unknown until one tried)
MetricsAvailable  did every ready pod answer?
GPUCapacity       does the scheduler find room for every pod?
ScalingLimited    does a bound hold the number back?
RoutingReady      is there the way to the replicas that spec.routing asks for? (not with mode Service)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace_operator.decide import routing, standby
from headrace_operator.decide.reasons import Health, Progress, Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import InferenceDeployment


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: bool | None  # None = Unknown
    reason: Reason | Health | Progress
    message: str


def conditions(deployment: InferenceDeployment, observed: Observed, decision: Decision) -> tuple[Condition, ...]:
    return (
        _ready(decision, observed),
        _model_valid(observed),
        _metrics_available(observed, decision),
        _gpu_capacity(deployment, observed, decision),
        _scaling_limited(decision),
    )


def _ready(decision: Decision, observed: Observed) -> Condition:
    ready, needed = len(observed.ready), decision.situation.policy.min_replicas
    if not (needed or decision.replicas):
        return Condition(
            "Ready", True, Health.SCALED_TO_ZERO, "no replica is wanted; the routers hold the next request"
        )
    needed = max(1, needed)  # from zero, the promise is the one that is on its way
    message = f"{ready} of at least {needed} replicas are ready"
    if ready >= needed:
        return Condition("Ready", True, Health.ENOUGH_READY, message)
    for phase, reason in _NOT_YET:
        if pods := observed.in_phase(phase):
            return Condition("Ready", False, reason, f"{message}; {pods[0].name}: {pods[0].message}".rstrip(": "))
    return Condition("Ready", False, Health.TOO_FEW_READY, message)


# What stands in the way: the worst first, and of starts that go well the one that has furthest to go.
_NOT_YET: tuple[tuple[PodPhase, Reason | Health], ...] = (
    (PodPhase.MODEL_REFUSED, Reason.MODEL_REFUSED),
    (PodPhase.DEVICE_MISMATCH, Health.DEVICE_MISMATCH),
    (PodPhase.IMAGE_PULL_FAILED, Health.IMAGE_PULL_FAILED),
    (PodPhase.CRASH_LOOPING, Health.CRASH_LOOPING),
    (PodPhase.UNSCHEDULABLE, Health.WAITING_FOR_GPU),
    (PodPhase.UNREADY, Health.NOT_READY),
    (PodPhase.STARTING, Health.STARTING),
    (PodPhase.PULLING, Health.PULLING),
    (PodPhase.LOADING, Health.LOADING),
    (PodPhase.WARMING_UP, Health.WARMING_UP),
)


def _model_valid(observed: Observed) -> Condition:
    if refused := observed.in_phase(PodPhase.MODEL_REFUSED):
        return Condition("ModelValid", False, Reason.MODEL_REFUSED, refused[0].message)
    if observed.ready:
        return Condition("ModelValid", True, Health.MODEL_LOADED, f"{len(observed.ready)} replicas loaded it")
    return Condition("ModelValid", None, Health.MODEL_NOT_TRIED, "no replica has loaded it yet")


def _metrics_available(observed: Observed, decision: Decision) -> Condition:
    ready = observed.ready
    answered = sum(pod.sample is not None for pod in ready)
    message = f"{answered} of {len(ready)} ready pods answered"
    if not ready:
        return Condition("MetricsAvailable", None, Reason.NONE_READY, message)
    if answered == len(ready):
        return Condition("MetricsAvailable", True, Health.ALL_ANSWER, message)
    reason = Reason.METRICS_FALLBACK if decision.reason is Reason.METRICS_FALLBACK else Reason.METRICS_MISSING
    return Condition("MetricsAvailable", False, reason, message)


def _gpu_capacity(deployment: InferenceDeployment, observed: Observed, decision: Decision) -> Condition:
    if observed.refused is not None:
        return Condition("GPUCapacity", False, Health.QUOTA_EXCEEDED, observed.refused)
    stuck = decision.situation.supply.without_gpu
    if stuck.pods:
        return Condition("GPUCapacity", False, Reason.INSUFFICIENT_GPU, f"{stuck.pods} pods wait: {stuck.message}")
    missing, room = standby.wanted_more(observed, deployment.scaling.warm_standby), observed.standby_room
    if room is not None and missing > room:
        message = f"{missing} standby pods are missing, and the namespace's GPU budget has room for {room}"
        return Condition("GPUCapacity", False, Reason.OVER_BUDGET, message)
    return Condition("GPUCapacity", True, Health.SCHEDULED, "every pod has its place")


_LIMITS = {Reason.AT_MAXIMUM, Reason.INSUFFICIENT_GPU, Reason.OVER_BUDGET}


def _scaling_limited(decision: Decision) -> Condition:
    for clamp in decision.clamps:
        if clamp.reason in _LIMITS:
            message = f"{clamp.before} replicas are wanted, {clamp.after} are allowed"
            return Condition("ScalingLimited", True, clamp.reason, message)
    return Condition("ScalingLimited", False, Health.WITHIN_BOUNDS, "no bound holds the number of replicas back")


def routing_ready(deployment: InferenceDeployment, observed: Observed) -> list[Condition]:
    """Where spec.routing asks for more than the Service."""
    told = routing.readiness(deployment, observed.routers, observed.no_routing)
    return [Condition("RoutingReady", *told)] if told else []


def as_status(
    conditions: Sequence[Condition], before: Sequence[Mapping[str, Any]], generation: int, now: float
) -> list[dict[str, Any]]:
    """As Kubernetes writes them; lastTransitionTime moves only when the status does."""
    known = {condition.get("type"): condition for condition in before}
    return [_as_status(condition, known.get(condition.type, {}), generation, now) for condition in conditions]


def _as_status(condition: Condition, before: Mapping[str, Any], generation: int, now: float) -> dict[str, Any]:
    status = {True: "True", False: "False", None: "Unknown"}[condition.status]
    moved = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": condition.type,
        "status": status,
        "reason": str(condition.reason),
        "message": condition.message[:1024],
        "observedGeneration": generation,
        "lastTransitionTime": moved or timestamp(now),
    }


def timestamp(now: float) -> str:
    """RFC 3339 in UTC, whole seconds, as metav1.Time."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(text: str) -> float:
    """Epoch seconds of a time as `timestamp` or Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()
