"""Conditions about what goes wrong or stands in the way, beside the promises in conditions.py.

Degraded       is a pod in trouble that Kubernetes' restarts will not end by themselves?
AbleToScale    could another number of replicas be brought about now? (the HPA's word)
ScalingActive  does a measured load decide the number? (the HPA's word)
"""

from headrace_operator.decide.conditions import Condition
from headrace_operator.decide.reasons import Health, Reason
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.service import Mode


def health(observed: Observed, decision: Decision) -> tuple[Condition, ...]:
    return _degraded(observed), _able_to_scale(observed, decision), _scaling_active(decision)


# The worst first.
TROUBLES: tuple[tuple[PodPhase, Reason | Health], ...] = (
    (PodPhase.MODEL_REFUSED, Reason.MODEL_REFUSED),
    (PodPhase.DEVICE_MISMATCH, Health.DEVICE_MISMATCH),
    (PodPhase.IMAGE_PULL_FAILED, Health.IMAGE_PULL_FAILED),
    (PodPhase.CRASH_LOOPING, Health.CRASH_LOOPING),
    (PodPhase.UNREADY, Health.NOT_READY),
)


def _degraded(observed: Observed) -> Condition:
    """Standby pods included: a broken one is found out before it is needed."""
    kept = [pod for pod in observed.pods if pod.is_live or pod.is_standby]
    for phase, reason in TROUBLES:
        if pods := [pod for pod in kept if pod.phase is phase]:
            return Condition("Degraded", True, reason, _of(pods, kept, pods[0].message))
    if leaving := [pod for pod in kept if pod.loss_announced is not None]:
        return Condition("Degraded", True, Health.LOSS_ANNOUNCED, _of(leaving, kept, leaving[0].loss_announced or ""))
    return Condition("Degraded", False, Health.ALL_WELL, f"none of {len(kept)} pods is in trouble")


def _of(pods: list[PodState], kept: list[PodState], message: str) -> str:
    return f"{len(pods)} of {len(kept)} pods; {pods[0].name}: {message}".rstrip(": ")


def _able_to_scale(observed: Observed, decision: Decision) -> Condition:
    without_gpu = decision.situation.supply.without_gpu
    if observed.refused is not None:
        return Condition("AbleToScale", False, Health.QUOTA_EXCEEDED, observed.refused)
    if without_gpu.pods:
        message = f"{without_gpu.pods} pods wait: {without_gpu.message}"
        return Condition("AbleToScale", False, Reason.INSUFFICIENT_GPU, message)
    if any(clamp.reason is Reason.HOLDING_FOR_WINDOW for clamp in decision.clamps):
        window = decision.situation.policy.scale_down_window
        message = f"more replicas were needed within the last {window:g} s"
        return Condition("AbleToScale", True, Health.SCALE_DOWN_STABILIZED, message)
    return Condition("AbleToScale", True, Health.READY_FOR_NEW_SCALE, "nothing stands in the way")


def _scaling_active(decision: Decision) -> Condition:
    signals = decision.signals
    answered = f"{signals.answered} of {signals.asked} ready pods answered"
    if idle := _IDLE.get(decision.situation.policy.mode):
        return Condition("ScalingActive", False, *idle)
    if decision.situation.policy.mode is Mode.EXTERNAL:
        return _external(decision.situation.policy.replicas)
    if signals.held or decision.situation.least == decision.replicas == 0:
        return Condition("ScalingActive", True, Health.VALID_METRIC_FOUND, f"routers hold {signals.held} requests")
    if not signals.asked:
        return Condition("ScalingActive", False, Reason.NONE_READY, answered)
    if signals.all_missing:
        return Condition("ScalingActive", False, Reason.METRICS_MISSING, answered)
    return Condition("ScalingActive", True, Health.VALID_METRIC_FOUND, answered)


def _external(replicas: int | None) -> Condition:
    """Without a first number the API server refuses to read the scale subresource, so that an HPA cannot begin."""
    if replicas is not None:
        return Condition("ScalingActive", True, Reason.EXTERNAL, "spec.replicas decides, within the bounds")
    message = (
        "mode External has no spec.replicas yet, and an HPA needs a first one: `kubectl scale infdep/NAME --replicas=N`"
    )
    return Condition("ScalingActive", False, Reason.EXTERNAL, message)


_IDLE: dict[Mode, tuple[Reason | Health, str]] = {
    Mode.PAUSED: (Reason.PAUSED, "spec.autoscaling.mode is Paused"),
    Mode.SHADOW: (Health.SHADOW, "spec.autoscaling.mode is Shadow: what is decided is recorded, and not done"),
}
