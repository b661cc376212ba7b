"""How many pods are doing what, for `kubectl get -o yaml` and for people who wait."""

from collections import Counter
from typing import Any

from headrace_operator.decide.values import Observed, PodPhase, PodState

DRAINING = "Draining"  # out of the Service, with its last requests


def as_status(observed: Observed) -> list[dict[str, Any]]:
    """By role and phase, in the order in which a pod passes them."""
    counted = Counter((str(pod.role), of(pod)) for pod in observed.everybody)
    order = [*PodPhase, DRAINING]
    ordered = sorted(counted.items(), key=lambda entry: (entry[0][0], order.index(entry[0][1])))
    return [{"role": role, "phase": phase, "pods": pods} for (role, phase), pods in ordered]


def of(pod: PodState) -> str:
    """What a pod is doing, draining included."""
    return DRAINING if pod.is_draining else str(pod.phase)
