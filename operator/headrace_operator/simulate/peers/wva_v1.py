"""llm-d's Workload Variant Autoscaler, saturation analyzer V1: one up when little is spare, one down when enough is.

Source: llm-d-autoscaling internal/saturation/analyzer.go; its gauge is read by an HPA of 0 s up and 300 s down
(the chart's own 240 s up would make it slower).
"""

from dataclasses import dataclass, field

from headrace_operator.simulate.peers.hpa import SYNC, Behavior
from headrace_operator.simulate.policy import Bounds, Look, Pod

LOOP = 60.0  # seconds: GLOBAL_OPT_INTERVAL
KV_FULL, QUEUE_FULL = 0.80, 5  # saturated from then on
KV_SPARE, QUEUE_SPARE = 0.1, 3


@dataclass(slots=True)
class WvaV1:
    bounds: Bounds
    interval: float = SYNC
    behavior: Behavior = field(init=False)
    gauge: int | None = None
    looped_at: float = -LOOP

    def __post_init__(self) -> None:
        self.behavior = Behavior(self.bounds)

    def replicas(self, look: Look) -> int:
        if look.now - self.looped_at >= LOOP:
            self.looped_at, self.gauge = look.now, analyzed(look)
        wanted = look.desired if self.gauge is None else self.gauge
        return self.behavior.limited(wanted, look.desired, look.now)


def analyzed(look: Look) -> int:
    """Frozen while a replica that was wanted does not report yet."""
    reporting = [pod for pod in look.pods if pod.sample is not None]
    if len(reporting) != look.desired:
        return look.desired
    fresh = [pod for pod in reporting if not _is_saturated(pod)]
    if not fresh:
        return look.desired + 1
    kv = KV_FULL - sum(pod.kv_share for pod in fresh) / len(fresh)
    queue = QUEUE_FULL - sum(_queue(pod) for pod in fresh) / len(fresh)
    if kv < KV_SPARE or queue < QUEUE_SPARE:
        return look.desired + 1
    return look.desired - 1 if _can_lose_one(fresh) else look.desired


def _can_lose_one(fresh: list[Pod]) -> bool:
    number = len(fresh)
    if number < 2:
        return False
    more = number / (number - 1)
    kv = KV_FULL - more * sum(pod.kv_share for pod in fresh) / number
    queue = QUEUE_FULL - more * sum(_queue(pod) for pod in fresh) / number
    return kv >= KV_SPARE and queue >= QUEUE_SPARE


def _is_saturated(pod: Pod) -> bool:
    return pod.kv_share >= KV_FULL or _queue(pod) >= QUEUE_FULL


def _queue(pod: Pod) -> int:
    return pod.sample.waiting if pod.sample else 0
