"""Everything a decision may look at, as one small value: status records it, and `decide` is a function of nothing else.

Times are told as durations and numbers are rounded here, before the decision, so that what status shows gives the same
decision again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from headrace_operator.decide import horizon, schedules
from headrace_operator.decide.history import History
from headrace_operator.decide.numbers import rounded
from headrace_operator.decide.schedules import Bounds
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.values import Observed, PodPhase, PodState
from headrace_operator.service import Forecast, Mode, Scaling

WORDS = 512  # characters of what a scheduler or a server said


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked for at this moment."""

    mode: Mode
    min_replicas: int
    max_replicas: int
    queue_wait_target: float  # seconds, p95
    utilization: float  # share of a replica's capacity that demand may take, 0..1
    scale_down_window: float  # seconds
    metrics_hold: float  # seconds
    metrics_fallback: int | None = None
    replicas: int | None = None  # spec.replicas
    schedules: tuple[str, ...] = ()  # names of those that are on; both bounds come from them
    forecast: bool = False  # may order for what is to come
    idle_timeout: float | None = None  # seconds without a request until the last replica goes; None = it stays


@dataclass(frozen=True, slots=True)
class Stuck:
    """Pods that will not serve as things are, in the words of whoever refuses them."""

    pods: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Supply:
    """The live pods: ready, starting, or without a GPU."""

    ready: int
    starting: tuple[int, ...] = ()  # seconds until each is expected to serve, ascending; 0 = it should by now
    without_gpu: Stuck = Stuck()  # no supply: the scheduler has no place for them
    refused: Stuck = Stuck()  # of those that start: the server cannot serve this model

    @property
    def live(self) -> int:
        return self.ready + len(self.starting) + self.without_gpu.pods


@dataclass(frozen=True, slots=True)
class Situation:
    """What `decide` looks at."""

    policy: Policy
    signals: Signals
    supply: Supply
    current: int  # replicas decided last, a lost pod included; in mode Shadow the live pods
    start_time: float  # seconds from the order of a replica to Ready
    peak: int | None = None  # the most that was recommended within the scale-down window
    peak_ago: float = 0.0  # seconds
    lowered_ago: float | None = None  # seconds since a decision was lower than the one before; None = never
    silent_for: float = 0.0  # seconds in which no ready pod answered
    budget: int | None = None  # replicas that the namespace's GPU budget allows, never fewer than those that run
    lasting: int | None = None  # the least that was asked for in the last seconds; None = nothing was
    idle_for: float = 0.0  # seconds in which no request was seen anywhere, and everybody was heard
    has_served: bool = False  # a replica was Ready once

    @property
    def least(self) -> int:
        """Replicas at least: one also with minReplicas 0, until it was Ready once. What never served is not idle."""
        return self.policy.min_replicas if self.has_served else max(1, self.policy.min_replicas)

    @property
    def is_idle(self) -> bool:
        timeout = self.policy.idle_timeout
        return self.has_served and timeout is not None and self.idle_for >= timeout

    @property
    def burst_load(self) -> float | None:
        """What bursts as came lately need, in replicas. None when not known.

        With half of the wanted reserve: a burst's own crowding is in what it needs, how it falls on replicas is not.
        """
        signals = self.signals
        if signals.burst is None or not signals.capacity:
            return None
        return signals.burst / (signals.capacity * (1 + self.policy.utilization) / 2)

    @property
    def load(self) -> float | None:
        """Arriving work in replicas, at the wanted utilization. None when not known."""
        if self.signals.demand is None or not self.signals.capacity:
            return None
        return self.signals.demand / (self.signals.capacity * self.policy.utilization)


def look(
    scaling: Scaling, observed: Observed, signals: Signals, history: History, now: float, *, budget: int | None = None
) -> Situation:
    """`signals` and `history` as `measure` gave them; `budget` as `budget.cap` did."""
    live = observed.live
    start = horizon.start_time(history)
    peak_at, peak = history.peak(now - scaling.scale_down_window) or (now, None)
    return Situation(
        policy=_policy(scaling, schedules.bounds(scaling, now)),
        signals=signals,
        supply=_supply(scaling, live, start, now),
        current=len(live) if scaling.mode is Mode.SHADOW or history.desired is None else history.desired,
        start_time=rounded(start),
        peak=peak,
        peak_ago=rounded(now - peak_at),
        lowered_ago=None if history.lowered_at is None else rounded(now - history.lowered_at),
        silent_for=0.0 if history.silent_since is None else rounded(now - history.silent_since),
        budget=budget,
        lasting=history.lasting(now),
        idle_for=0.0 if history.busy_at is None else rounded(now - history.busy_at),
        has_served=history.has_served,
    )


@lru_cache(maxsize=4096)  # of every deployment, as its bounds
def _policy(scaling: Scaling, bounds: Bounds) -> Policy:
    return Policy(
        mode=scaling.mode,
        min_replicas=bounds.min_replicas,
        max_replicas=bounds.max_replicas,
        queue_wait_target=scaling.queue_wait_target,
        utilization=scaling.utilization,
        scale_down_window=scaling.scale_down_window,
        metrics_hold=scaling.metrics_hold,
        metrics_fallback=scaling.metrics_fallback,
        replicas=scaling.replicas,
        schedules=bounds.schedules,
        forecast=scaling.forecast is Forecast.TREND,
        idle_timeout=None if bounds.min_replicas else scaling.idle_timeout,
    )


def _supply(scaling: Scaling, live: Sequence[PodState], start: float, now: float) -> Supply:
    """`start`: seconds that one takes."""
    coming = [pod for pod in live if pod.phase is not PodPhase.READY]
    if not coming:
        return Supply(ready=len(live))
    stuck = [pod for pod in coming if has_no_place(pod, scaling, now)]
    starting = [round(horizon.remaining(pod, start, now)) for pod in coming if pod not in stuck]
    return Supply(
        ready=len(live) - len(coming),
        starting=tuple(sorted(starting)),
        without_gpu=_stuck(stuck),
        refused=_stuck([pod for pod in coming if pod.phase is PodPhase.MODEL_REFUSED]),
    )


def has_no_place(pod: PodState, scaling: Scaling, now: float) -> bool:
    """Has the scheduler looked for a place for so long that this pod is no supply any more?"""
    since = pod.created_at if pod.unschedulable_since is None else pod.unschedulable_since
    return pod.phase is PodPhase.UNSCHEDULABLE and now - since >= scaling.unschedulable_after


def _stuck(pods: Sequence[PodState]) -> Stuck:
    return Stuck(len(pods), pods[0].message[:WORDS]) if pods else Stuck()
