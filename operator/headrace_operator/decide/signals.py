"""From samples to the few numbers that a decision is made of. Missing data is missing here, never zero."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from headrace_operator.decide.history import WINDOW, History
from headrace_operator.decide.values import Observed, PodSample

WARM_UP = 5.0  # seconds after Ready in which a pod's speed is not learned from
SHORTEST = 0.5  # seconds between two samples; a rate over less is noise
CAPACITY_GAIN = 0.2  # weight of one saturated interval against everything learned before
SETTLE = 4.0  # seconds after the ready pods changed before queue waits speak about the new supply


@dataclass(frozen=True, slots=True)
class Signals:
    """Sums over the pods that answered. Tokens are prompt + generated: the unit of work."""

    asked: int  # ready pods
    answered: int
    arrivals: float | None  # requests/s; None before two samples exist
    throughput: float | None  # tokens/s
    work_per_request: float | None  # tokens
    capacity: float | None  # tokens/s that one replica carries
    waiting: int  # requests
    running: int  # requests
    max_running: int  # requests that one replica runs together; 0 = unknown
    queue_wait_p95: float | None  # seconds; None when no request left the queue within the window
    waits_are_settled: bool  # the waits were measured with today's ready pods

    @property
    def demand(self) -> float | None:
        """Tokens/s that arrive, in the mean work of a finished request."""
        if self.arrivals is None or self.work_per_request is None:
            return None
        return self.arrivals * self.work_per_request

    @property
    def backlog(self) -> float:
        """Tokens that wait; 0 when the work of a request is not known yet."""
        return self.waiting * (self.work_per_request or 0.0)

    @property
    def all_missing(self) -> bool:
        return self.answered == 0

    @property
    def some_missing(self) -> bool:
        return 0 < self.answered < self.asked


def measure(observed: Observed, history: History, now: float) -> tuple[History, Signals]:
    """This tick's signals, and the history that has learned from them."""
    history = history.seen(observed, now)
    serving = [pod for pod in observed.pods if pod.sample is not None]  # draining pods still carry load
    spans = [_span(history.samples[pod.uid]) for pod in serving if pod.uid in history.samples]
    rates = [(first, last) for first, last in spans if last.at - first.at >= SHORTEST]
    history = _learn(observed, history, now, rates)
    samples = [pod.sample for pod in serving if pod.sample is not None]
    ready = observed.ready
    return history, Signals(
        asked=len(ready),
        answered=sum(pod.sample is not None for pod in ready),
        arrivals=_rate(rates, lambda sample: sample.received),
        throughput=_rate(rates, lambda sample: sample.tokens),
        work_per_request=history.work_per_request,
        capacity=history.capacity,
        waiting=sum(sample.waiting for sample in samples),
        running=sum(sample.running for sample in samples),
        max_running=max((sample.max_running for sample in samples), default=0),
        queue_wait_p95=_queue_wait(observed, history, now),
        waits_are_settled=now - history.ready_changed_at >= SETTLE,
    )


def _span(samples: tuple[PodSample, ...]) -> tuple[PodSample, PodSample]:
    """First and last sample since the process last started: a counter that fell means a restart."""
    first = samples[0]
    for before, after in pairwise(samples):
        if after.received < before.received or after.tokens < before.tokens:
            first = after
    return first, samples[-1]


def _rate(spans: list[tuple[PodSample, PodSample]], counter: Callable[[PodSample], float]) -> float | None:
    if not spans:
        return None
    return sum((counter(last) - counter(first)) / (last.at - first.at) for first, last in spans)


def _learn(observed: Observed, history: History, now: float, rates: list[tuple[PodSample, PodSample]]) -> History:
    work = history.work_per_request
    finished = sum(last.finished - first.finished for first, last in rates)
    if finished >= 1:
        work = sum(last.finished_tokens - first.finished_tokens for first, last in rates) / finished
    capacity = history.capacity
    for pod in observed.ready:
        samples = history.samples.get(pod.uid, ())
        is_warm = pod.ready_at is not None and now - pod.ready_at >= WARM_UP
        if is_warm and len(samples) >= 2 and samples[-1].at == (pod.sample.at if pod.sample else None):
            capacity = _capacity(capacity, samples[-2], samples[-1])
    return replace(history, work_per_request=work, capacity=capacity)


def _capacity(known: float | None, before: PodSample, after: PodSample) -> float | None:
    """Learned from saturated intervals only; a replica that did more than it is thought to carry raises it at once."""
    seconds = after.at - before.at
    if seconds < SHORTEST or after.tokens < before.tokens:
        return known
    speed = (after.tokens - before.tokens) / seconds
    is_saturated = all(sample.waiting > 0 and sample.running >= sample.max_running > 0 for sample in (before, after))
    if is_saturated and speed > 0:
        return speed if known is None else known + CAPACITY_GAIN * (speed - known)
    return max(known, speed) if known is not None else None


def _queue_wait(observed: Observed, history: History, now: float) -> float | None:
    """p95 of the waits that ended within the window and since the ready pods changed, over all pods together.

    A request that still waits is in no histogram: the oldest one bounds the p95 from below.
    """
    since = max(now - WINDOW, history.ready_changed_at)
    counts: dict[float, float] = {}
    oldest: list[float] = []
    for pod in observed.ready:
        samples = [sample for sample in history.samples.get(pod.uid, ()) if sample.at >= since]
        if not samples:
            continue
        first, last = _span(tuple(samples))
        before = dict(first.queue_waits)
        for bound, count in last.queue_waits:
            counts[bound] = counts.get(bound, 0.0) + count - before.get(bound, 0.0)
        oldest.append(last.oldest_waiting)
    ended = quantile(sorted(counts.items()), 0.95)
    known = [wait for wait in (ended, max(oldest, default=0.0)) if wait]
    if known:
        return max(known)
    return 0.0 if oldest and ended is not None else None


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Of a cumulative histogram, interpolated within the bucket as Prometheus' histogram_quantile does."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            if math.isinf(upper):
                return lower
            return lower + (upper - lower) * ((rank - below) / (count - below) if count > below else 1.0)
        lower, below = upper, count
    return lower
