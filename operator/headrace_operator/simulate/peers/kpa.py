"""Knative's KPA: stable and panic windows over the requests in flight.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go, metrics/, aggregation/. Every pod is scraped each second
(they sample beyond three); the activator's burst capacity and scaling to zero take no part above one replica.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from headrace_operator.simulate.policy import Bounds, Look

SCRAPE, TICK = 1.0, 2.0  # seconds
STABLE, PANIC = 60.0, 6.0  # seconds
PANIC_THRESHOLD = 2.0  # times what is ready
MOST_UP, MOST_DOWN = 1000.0, 2.0  # times what is ready, in one decision
UTILIZATION = 0.7  # of the container's concurrency


@dataclass(slots=True)
class Kpa:
    concurrency: float  # requests that one container takes
    bounds: Bounds
    utilization: float = UTILIZATION
    interval: float = SCRAPE
    totals: deque[tuple[float, float]] = field(default_factory=deque)  # (when, requests in flight)
    panics_since: float | None = None
    panic_floor: int = 0
    decided_at: float = -TICK

    def replicas(self, look: Look) -> int:
        self._scraped(look)
        if not self.totals or look.now - self.decided_at < TICK:
            return look.desired
        if self.decided_at < 0 and len(look.ready) > 1:  # after a restart it panics at what runs
            self.panics_since, self.panic_floor = look.now, len(look.ready)
        self.decided_at = look.now
        ready = max(1, len(look.ready))
        target = self.concurrency * self.utilization
        least, most = math.floor(ready / MOST_DOWN), math.ceil(MOST_UP * ready)
        stable = max(least, min(most, math.ceil(self._mean(look.now, STABLE) / target)))
        panic = max(least, min(most, math.ceil(self._mean(look.now, PANIC) / target)))
        self._panic_or_not(panic / ready >= PANIC_THRESHOLD, look.now)
        if self.panics_since is None:
            return self.bounds.of(stable)
        self.panic_floor = max(self.panic_floor, stable, panic)
        return self.bounds.of(self.panic_floor)

    def _scraped(self, look: Look) -> None:
        samples = look.samples
        if samples:
            in_flight = sum(sample.waiting + sample.running for sample in samples)
            # Who did not answer is taken to be as the others.
            self.totals.append((look.now, in_flight * len(look.ready) / len(samples)))
        while self.totals and self.totals[0][0] <= look.now - STABLE:
            self.totals.popleft()

    def _mean(self, now: float, window: float) -> float:
        values = [value for at, value in self.totals if at > now - window]
        return sum(values) / len(values) if values else 0.0

    def _panic_or_not(self, is_over: bool, now: float) -> None:
        """It panics on until a whole stable window was below the threshold."""
        if is_over:
            self.panics_since = now
        elif self.panics_since is not None and now - self.panics_since >= STABLE:
            self.panics_since, self.panic_floor = None, 0
