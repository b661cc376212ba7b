"""Kubernetes HPA v2 on a metric of each pod.

Source: kubernetes/kubernetes pkg/controller/podautoscaler/{horizontal,replica_calculator}.go and
pkg/apis/autoscaling/v2/defaults.go: ratio of the mean to the target, tolerance, missing and unready pods, the rate
policies and stabilization windows of an HPA without a `behavior` of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace_operator.simulate.policy import Bounds, Look, Pod

SYNC = 15.0  # seconds: --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1
DOWN_WINDOW = 300.0  # seconds: scaleDown.stabilizationWindowSeconds; scaleUp's is 0
PERIOD = 15.0  # seconds of each rate policy
PODS, PERCENT = 4, 100  # scaleUp policies, the larger one counts; scaleDown is 100 percent

Metric = Callable[[Pod], float | None]  # None = this pod did not answer


@dataclass(slots=True)
class Behavior:
    """Stabilization and rates: what stands between the calculated number and the written one."""

    bounds: Bounds
    recommendations: list[tuple[float, int]] = field(default_factory=list)
    raised: list[tuple[float, int]] = field(default_factory=list)  # (when, pods added)

    def limited(self, wanted: int, current: int, now: float) -> int:
        self.recommendations = [entry for entry in self.recommendations if entry[0] > now - DOWN_WINDOW]
        self.recommendations.append((now, wanted))
        if wanted < current:
            wanted = min(current, max(value for _, value in self.recommendations))
        self.raised = [entry for entry in self.raised if entry[0] > now - PERIOD]
        began_at = current - sum(added for _, added in self.raised)
        most = max(began_at + PODS, math.ceil(began_at * (1 + PERCENT / 100)))
        replicas = self.bounds.of(min(wanted, max(most, current)))
        if replicas > current:
            self.raised.append((now, replicas - current))
        return replicas


@dataclass(slots=True)
class Hpa:
    metric: Metric
    target: float  # of the metric, a pod
    bounds: Bounds
    interval: float = SYNC
    behavior: Behavior = field(init=False)

    def __post_init__(self) -> None:
        self.behavior = Behavior(self.bounds)

    def replicas(self, look: Look) -> int:
        wanted = calculated(look, self.metric, self.target)
        return self.behavior.limited(wanted, look.desired, look.now)


def calculated(look: Look, metric: Metric, target: float) -> int:
    """Missing pods are full when fewer are wanted and empty when more are; unready ones are empty."""
    ready = look.ready
    values = [value for pod in ready if (value := metric(pod)) is not None]
    if not values:
        return look.desired
    missing, unready = len(ready) - len(values), len(look.pods) - len(ready)
    ratio = sum(values) / len(values) / target
    if not missing and not (unready and ratio > 1):
        return look.desired if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * len(ready))
    filled = [*values, *([target] * missing if ratio < 1 else [0.0] * missing)]
    if ratio > 1:
        filled += [0.0] * unready
    again = sum(filled) / len(filled) / target
    if abs(again - 1) <= TOLERANCE or (ratio > 1) is not (again > 1):
        return look.desired
    return math.ceil(again * len(filled))


def waiting(pod: Pod) -> float | None:
    """Requests in the queue of one server, as vllm:num_requests_waiting."""
    return None if pod.sample is None else float(pod.sample.waiting)


def in_flight(pod: Pod) -> float | None:
    """Requests inside one server."""
    return None if pod.sample is None else float(pod.sample.waiting + pod.sample.running)
