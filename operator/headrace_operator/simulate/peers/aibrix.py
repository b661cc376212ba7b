"""AIBrix's APA on the use of the KV room.

Source: vllm-project/aibrix pkg/controller/podautoscaler/{algorithm/apa.go,podautoscaler_controller.go} at e3e10f9: the
mean of the pods that answered over the stable window, against a target of 0.5 (their example gpu_cache_usage_perc),
beyond a band of 10 % at most twice or half of the present number. The cooldown takes the lowest recommendation for
down, as that commit does.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from headrace_operator.simulate.policy import Bounds, Look

RESYNC = 10.0  # seconds
STABLE = 180.0  # seconds
TARGET = 0.5
BAND = 0.1
COOLDOWN = 300.0  # seconds, down


@dataclass(slots=True)
class AiBrix:
    bounds: Bounds
    target: float = TARGET
    interval: float = RESYNC
    means: deque[tuple[float, float]] = field(default_factory=deque)
    recommendations: deque[tuple[float, int]] = field(default_factory=deque)

    def replicas(self, look: Look) -> int:
        answered = [pod.kv_share for pod in look.ready if pod.sample is not None]
        if not answered:
            return look.desired
        self.means.append((look.now, sum(answered) / len(answered)))
        while self.means[0][0] <= look.now - STABLE:
            self.means.popleft()
        value = sum(mean for _, mean in self.means) / len(self.means)
        wanted = self.bounds.of(by_ratio(value / self.target, look.desired))
        self.recommendations.append((look.now, wanted))
        while self.recommendations[0][0] <= look.now - COOLDOWN:
            self.recommendations.popleft()
        if wanted < look.desired:
            return min(value for _, value in self.recommendations)
        return wanted


def by_ratio(ratio: float, replicas: int) -> int:
    if ratio > 1 + BAND:
        return min(math.ceil(replicas * ratio), 2 * replicas)
    if ratio < 1 - BAND:
        return max(math.ceil(replicas * ratio), replicas // 2)
    return replicas
