"""NVIDIA Dynamo's SLA planner: predicted rate against a profile every three minutes, one up or down every five seconds.

Source: ai-dynamo components/src/dynamo/planner/core/{state_machine,load_scaling,throughput_scaling}.py,
config/defaults.py, with constant prediction (the last window goes on). The profile of an engine is taken as known: the
requests of today's lengths that full batches would serve in a second.
"""

import math
from dataclasses import dataclass

from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.outcome import work
from headrace_operator.simulate.policy import Bounds, Look, Pod
from headrace_operator.simulate.traces import Request

LOAD, THROUGHPUT = 5.0, 180.0  # seconds between two ticks
TTFT = 0.5  # seconds that are promised
SENSITIVITY = 0.80  # of the promise: below it, with one fewer, one goes


@dataclass(slots=True)
class Dynamo:
    engine: Engine
    mean: Request  # of the work that was profiled
    bounds: Bounds
    interval: float = LOAD
    floor: int = 0
    counted: tuple[float, float] | None = None  # (when, requests received)

    def replicas(self, look: Look) -> int:
        self._throughput(look)
        return self.bounds.of(max(self.floor, self._by_load(look)))

    def _throughput(self, look: Look) -> None:
        received = sum(pod.sample.received for pod in (*look.pods, *look.draining) if pod.sample)
        if self.counted is None:
            self.counted = look.now, received
        at, before = self.counted
        if look.now - at < THROUGHPUT:
            return
        self.counted = look.now, received
        rate = max(0.0, received - before) / (look.now - at)
        self.floor = math.ceil(rate * work(self.engine, self.mean))

    def _by_load(self, look: Look) -> int:
        """Frozen while a replica starts, and while one does not report."""
        ready = look.ready
        if len(ready) != look.desired or any(pod.sample is None for pod in ready) or not ready:
            return look.desired
        estimates = [self._ttft(pod) for pod in ready]
        if min(estimates) > TTFT:
            return look.desired + 1
        number = len(ready)
        if number > 1 and all(one * number / (number - 1) < TTFT * SENSITIVITY for one in estimates):
            return look.desired - 1
        return look.desired

    def _ttft(self, pod: Pod) -> float:
        """Seconds: queued prompt tokens, and one's own, at the speed of full steps."""
        waiting = pod.sample.waiting if pod.sample else 0
        step = self.engine.overhead + self.engine.seconds_per_token * self.engine.tokens_per_step
        return (waiting + 1) * self.mean.prompt * step / self.engine.tokens_per_step
