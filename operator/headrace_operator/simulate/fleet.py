"""The pods of one deployment: ordered, scheduled while there are GPUs, started phase by phase, drained, gone."""

import math
import random
from dataclasses import dataclass, replace

from headrace_operator.simulate.engine import COSTS, Engine
from headrace_operator.simulate.faults import Faults
from headrace_operator.simulate.replica import Replica


@dataclass(slots=True, eq=False)
class SimulatedPod:
    ordinal: int
    created_at: float  # seconds
    replica: Replica
    scheduled_at: float | None = None
    starts_at: float = math.inf  # seconds, when it will be ready
    ready_at: float | None = None
    unrouted_at: float | None = None
    gone_at: float | None = None

    @property
    def is_live(self) -> bool:
        return self.unrouted_at is None and self.gone_at is None


class Fleet:
    def __init__(self, engine: Engine, cold_start: float, faults: Faults, seed: int) -> None:
        self.pods: list[SimulatedPod] = []  # those that are not gone
        self.gone: list[SimulatedPod] = []
        self.routed: list[SimulatedPod] = []
        self._engine, self._cold_start, self._faults = engine, cold_start, faults
        self._rng = random.Random(seed)

    @property
    def live(self) -> list[SimulatedPod]:
        return [pod for pod in self.pods if pod.is_live]

    def size(self, replicas: int, now: float) -> None:
        """Order or take away until so many are live. First to go is what serves least, as the operator chooses."""
        live = self.live
        for _ in range(replicas - len(live)):
            self._order(now)
        for pod in sorted(live, key=_victim_order)[: max(0, len(live) - replicas)]:
            self.remove(pod, now)
        self.schedule(now)

    def start(self, replicas: int, now: float) -> None:
        """As many that serve already."""
        for _ in range(replicas):
            pod = self._order(now)
            pod.scheduled_at = pod.ready_at = now
            self.routed.append(pod)

    def remove(self, pod: SimulatedPod, now: float) -> None:
        pod.unrouted_at = now
        if pod in self.routed:
            self.routed.remove(pod)
        if not pod.replica.in_flight:
            self.end(pod, now)

    def end(self, pod: SimulatedPod, now: float) -> None:
        pod.gone_at = now
        self.pods.remove(pod)
        self.gone.append(pod)

    def schedule(self, now: float) -> list[SimulatedPod]:
        """Those that got a GPU just now, with the time of their readiness drawn."""
        room = self._faults.room(now) - sum(pod.scheduled_at is not None for pod in self.pods)
        placed = [pod for pod in self.pods if pod.scheduled_at is None][: max(0, room)]
        for pod in placed:
            pod.scheduled_at = now
            pod.starts_at = now + self._startup()
        return placed

    def lost(self, now: float) -> list[SimulatedPod]:
        """Pods beyond the room that is left: their nodes are gone with everything inside."""
        placed = [pod for pod in self.pods if pod.scheduled_at is not None]
        surplus = len(placed) - self._faults.room(now)
        return placed[: max(0, int(surplus))] if surplus > 0 else []

    def hours(self, begin: float, end: float) -> float:
        """Replica-hours between two times: from the GPU that a pod gets until it is gone, drain included."""
        held = 0.0
        for pod in (*self.pods, *self.gone):
            if pod.scheduled_at is not None:
                until = end if pod.gone_at is None else min(end, pod.gone_at)
                held += max(0.0, until - max(begin, pod.scheduled_at))
        return held / 3600

    def _order(self, now: float) -> SimulatedPod:
        taken = {pod.ordinal for pod in self.pods}
        ordinal = next(number for number in range(len(taken) + 1) if number not in taken)
        pod = SimulatedPod(ordinal, now, Replica(self._slowed(ordinal), now))
        self.pods.append(pod)
        return pod

    def _slowed(self, ordinal: int) -> Engine:
        factor, engine = self._faults.factor(ordinal), self._engine
        if factor == 1.0:
            return engine
        return replace(engine, **{cost: getattr(engine, cost) * factor for cost in COSTS})

    def _startup(self) -> float:
        """Seconds: each phase has its own luck."""
        shares, spread = self._engine.phases, self._engine.phase_spread
        drawn = sum(share * math.exp(self._rng.gauss(0.0, spread)) for share in shares)
        return self._cold_start * drawn / sum(shares)


def _victim_order(pod: SimulatedPod) -> tuple[bool, bool, int, float]:
    return pod.scheduled_at is not None, pod.ready_at is not None, pod.replica.in_flight, -pod.created_at
