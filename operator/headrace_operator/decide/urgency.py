"""Is the next look worth having sooner? Where a queue stands or is near, and more replicas could still be ordered."""

from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed, PodSample
from headrace_operator.service import Mode

NEARLY_FULL = 0.8  # of a pod's slots
MEASURED = {Mode.AUTO, Mode.SHADOW}  # in the other modes the load decides nothing


def is_urgent(observed: Observed, decision: Decision) -> bool:
    policy = decision.situation.policy
    can_grow = policy.mode in MEASURED and decision.replicas < policy.max_replicas
    return can_grow and (
        decision.signals.held > 0 or any(pod.sample is not None and _is_pressed(pod.sample) for pod in observed.ready)
    )


def _is_pressed(sample: PodSample) -> bool:
    return sample.waiting > 0 or sample.running >= NEARLY_FULL * sample.max_running > 0
