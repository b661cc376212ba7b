"""The bound: it knows the future, and its replicas take as long to start as everybody's.

It holds what each second of the trace needs, from one cold start before until it is not needed for a cold start. Needed
is the least number with which the work that comes would wait no longer than the SLO, at a utilization that leaves room
for chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.outcome import paced_work
from headrace_operator.simulate.policy import Bounds, Look
from headrace_operator.simulate.traces import Request

BUCKET = 1.0  # seconds
EARLY = 1.35  # times the cold start: what the slowest of many takes


@dataclass(slots=True)
class Oracle:
    engine: Engine
    requests: Sequence[Request]
    cold_start: float  # seconds
    slo: float  # seconds
    bounds: Bounds
    utilization: float = 0.7
    interval: float = 2.0
    needed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        buckets = [0.0] * (int(self.requests[-1].at / BUCKET) + 1)
        for request in self.requests:
            buckets[int(request.at / BUCKET)] += paced_work(self.engine, request)
        self.needed = [_need(buckets, index, self.slo, self.utilization) for index in range(len(buckets))]

    def replicas(self, look: Look) -> int:
        """All that is needed within the time in which it would otherwise have to start again."""
        now = int(look.now / BUCKET)
        ahead = self.needed[now : now + math.ceil(EARLY * self.cold_start / BUCKET) + 1]
        return self.bounds.of(max(ahead, default=0))


def _need(buckets: Sequence[float], index: int, slo: float, utilization: float) -> int:
    """Replicas with which the work of every span that begins here would be done at its end and one SLO."""
    done, most = 0.0, 0.0
    for length in range(1, min(31, len(buckets) - index + 1)):
        done += buckets[index + length - 1]
        most = max(most, done / (length * BUCKET + slo))
    return math.ceil(most / utilization)
