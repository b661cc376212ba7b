"""llm-d's Workload Variant Autoscaler, saturation V2: tokens in use against the tokens that a replica holds.

Source: llm-d-autoscaling internal/engines/analyzers/saturation_v2/. Replicas that start are credited. Its gauge is
read by an HPA of 0 s up and 300 s down, as for V1. Tokens in use are the KV tokens that a server reports.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from headrace_operator.simulate.peers.hpa import SYNC, Behavior
from headrace_operator.simulate.peers.wva_v1 import LOOP
from headrace_operator.simulate.policy import Bounds, Look

KV_FULL, QUEUE_FULL = 0.80, 5
UP, DOWN = 0.85, 0.70  # of capacity: more above the one, fewer below the other
KEPT = 10  # observations


@dataclass(slots=True)
class WvaV2:
    kv_tokens: int  # of one replica
    bounds: Bounds
    interval: float = SYNC
    behavior: Behavior = field(init=False)
    seen: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))  # tokens in use of a replica that queued
    gauge: int | None = None
    looped_at: float = -LOOP

    def __post_init__(self) -> None:
        self.behavior = Behavior(self.bounds)

    def replicas(self, look: Look) -> int:
        if look.now - self.looped_at >= LOOP:
            self.looped_at, self.gauge = look.now, self.analyzed(look)
        wanted = look.desired if self.gauge is None else self.gauge
        return self.behavior.limited(wanted, look.desired, look.now)

    def analyzed(self, look: Look) -> int:
        answered = [(pod, pod.sample) for pod in look.ready if pod.sample is not None]
        if not answered:
            return look.desired
        queued = [pod.kv_share * self.kv_tokens for pod, sample in answered if sample.waiting >= QUEUE_FULL]
        if queued:
            self.seen.append(median(queued))
        capacity = min(self.kv_tokens * KV_FULL, sum(self.seen) / len(self.seen) if self.seen else math.inf)
        finished = sum(sample.finished for _, sample in answered)
        mean = sum(sample.finished_tokens for _, sample in answered) / finished if finished else 0.0
        waiting = sum(sample.waiting for _, sample in answered)
        demand = sum(pod.kv_share * self.kv_tokens for pod, _ in answered) + waiting * mean
        capacity = max(capacity, 1.0)
        required = demand / UP - len(look.pods) * capacity
        spare = len(look.ready) * capacity - demand / DOWN
        if required > 0:
            return look.desired + math.ceil(required / capacity)
        return look.desired - max(0, math.floor(spare / capacity)) if spare > 0 else look.desired
