"""KEDA with the sum of waiting requests, AverageValue.

Source: kedacore/keda pkg/scaling/executor: KEDA itself decides between zero and one; from one on an HPA works on the
external metric, ceil(sum / threshold), with the HPA's tolerance against what runs, and its windows and rates. The
threshold of 5 is that of the vLLM production stack's example; fallback of section `fallback`: none is set, so without
metrics nothing changes.
"""

import math
from dataclasses import dataclass, field

from headrace_operator.simulate.peers.hpa import SYNC, TOLERANCE, Behavior
from headrace_operator.simulate.policy import Bounds, Look

THRESHOLD = 5.0  # waiting requests a replica


@dataclass(slots=True)
class Keda:
    bounds: Bounds
    threshold: float = THRESHOLD
    interval: float = SYNC
    behavior: Behavior = field(init=False)

    def __post_init__(self) -> None:
        self.behavior = Behavior(self.bounds)

    def replicas(self, look: Look) -> int:
        if not look.samples:
            return look.desired
        total = sum(sample.waiting for sample in look.samples)
        ratio = total / (self.threshold * look.desired)
        wanted = look.desired if abs(ratio - 1) <= TOLERANCE else math.ceil(total / self.threshold)
        return self.behavior.limited(wanted, look.desired, look.now)
