"""Ray Serve's replica autoscaling on ongoing requests.

Source: ray python/ray/serve/autoscaling_policy.py, _private/autoscaling_state.py, config.py: the time-weighted mean of
queued and running requests over 30 s, against a target for each replica; a change must be wanted without interruption
for 30 s up and 600 s down. The control loop runs more often; the metrics change only every 10 s.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from headrace_operator.simulate.policy import Bounds, Look

TARGET = 2.0  # target_ongoing_requests, default
LOOK_BACK, METRICS = 30.0, 10.0  # seconds
UP_DELAY, DOWN_DELAY = 30.0, 600.0  # seconds


@dataclass(slots=True)
class Ray:
    bounds: Bounds
    target: float = TARGET
    interval: float = METRICS
    totals: deque[tuple[float, float]] = field(default_factory=deque)
    since: tuple[int, float] | None = None  # direction, and since when it is wanted

    def replicas(self, look: Look) -> int:
        if look.samples:
            self.totals.append((look.now, sum(sample.waiting + sample.running for sample in look.samples)))
        while self.totals and self.totals[0][0] <= look.now - LOOK_BACK:
            self.totals.popleft()
        if not self.totals:
            return look.desired
        mean = sum(value for _, value in self.totals) / len(self.totals)
        wanted = self.bounds.of(math.ceil(mean / self.target))
        return wanted if self._is_due(wanted - look.desired, look.now) else look.desired

    def _is_due(self, change: int, now: float) -> bool:
        direction = (change > 0) - (change < 0)
        if not direction:
            self.since = None
            return False
        if self.since is None or self.since[0] != direction:
            self.since = direction, now
        delay = UP_DELAY if direction > 0 else DOWN_DELAY
        if now - self.since[1] < delay:
            return False
        self.since = None
        return True
