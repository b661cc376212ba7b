"""From samples to the few numbers that a decision is made of. Missing data is missing here, never zero."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace_operator.decide import busy, capacity, horizon, rates, waits
from headrace_operator.decide.history import WINDOW, History
from headrace_operator.decide.intervals import newest
from headrace_operator.decide.numbers import rounded, rounded_if_known
from headrace_operator.decide.rates import Series
from headrace_operator.decide.values import Observed, PodState
from headrace_operator.decide.windows import extended

NEW = 5.0  # seconds after Ready in which a pod that has not answered yet is not missed: its first scrape is under way


@dataclass(frozen=True, slots=True)
class Signals:
    """Sums over the pods that answered. Tokens are prompt + generated: the unit of work."""

    asked: int  # ready pods, without those that became ready a moment ago
    answered: int  # of them
    arrivals: float | None  # requests/s; None before two samples exist
    throughput: float | None  # tokens/s
    work_per_request: float | None  # tokens
    capacity: float | None  # tokens/s that one replica carries
    waiting: int  # requests
    running: int  # requests
    max_running: int  # requests that one replica runs together; 0 = unknown
    queue_wait_p95: float | None  # seconds; None when nobody waited within the window
    typical_wait: float | None  # p95 of the pod in the middle: what a new replica could relieve
    queue_drains_in: float  # seconds, at the pace seen; infinite while the queue grows or stands
    ready_unchanged: float  # seconds for which the waits were measured with today's ready pods
    kv_held: float = 0.0  # KV pages that requests hold, in caches of one replica
    forecast: float | None = None  # requests/s that will come when a replica that is ordered now serves
    burst: float | None = None  # tokens/s that replicas must carry for bursts as came lately
    held: int = 0  # requests at the routers, for want of a replica
    oldest_held: float = 0.0  # seconds

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting + self.held

    @property
    def demand(self) -> float | None:
        """Tokens/s that arrive, in the mean work of a finished request."""
        if self.arrivals is None or self.work_per_request is None:
            return None
        return self.arrivals * self.work_per_request

    @property
    def backlog(self) -> float:
        """Tokens that wait; 0 when the work of a request is not known yet."""
        return (self.waiting + self.held) * (self.work_per_request or 0.0)

    @property
    def all_missing(self) -> bool:
        return self.answered == 0


def measure(observed: Observed, history: History, now: float) -> tuple[History, Signals]:
    """This tick's signals, and the history that has learned from them."""
    ready = observed.ready
    silent = [pod for pod in ready if pod.sample is None]
    answered = len(ready) - len(silent)
    asked = answered + len([pod for pod in silent if not _is_new(pod, now)])
    history = _learned(observed, ready, history, now, is_silent=bool(asked) and not answered)
    is_one_process = history.is_one_process(now)
    serving = [pod for pod in observed.pods if pod.sample is not None]  # draining pods still carry load
    series = [known for pod in serving if (known := history.samples.get(pod.uid))]
    samples = [pod.sample for pod in serving if pod.sample is not None]
    held = [router.sample for router in observed.routers if router.sample is not None]
    since_change = _since_ready_changed(ready, history, now)
    rated = rates.measured(series, history.turned_away, is_one_process=is_one_process)
    waited = waits.measured(since_change, is_one_process=is_one_process)
    return history, Signals(
        asked=asked,
        answered=answered,
        arrivals=rounded_if_known(rated.arrivals),
        throughput=rounded_if_known(rated.throughput),
        work_per_request=rounded_if_known(history.work_per_request),
        capacity=rounded_if_known(history.capacity),
        waiting=sum([sample.waiting for sample in samples]),
        running=sum([sample.running for sample in samples]),
        max_running=max([sample.max_running for sample in samples], default=0),
        queue_wait_p95=rounded_if_known(waited.p95),
        typical_wait=rounded_if_known(waited.typical),
        queue_drains_in=rounded(waits.drains_in(since_change)),
        ready_unchanged=rounded(now - history.ready_changed_at),
        kv_held=rounded(sum([sample.kv_use for sample in samples])),
        forecast=rounded_if_known(history.trend.ahead(horizon.start_time(history))),
        burst=rounded_if_known(history.bursts.usual()),
        held=sum([told.held for told in held]),
        oldest_held=rounded(max([told.oldest_held for told in held], default=0.0)),
    )


def _is_new(pod: PodState, now: float) -> bool:
    return pod.ready_at is not None and now - pod.ready_at < NEW


def _learned(
    observed: Observed, ready: Sequence[PodState], history: History, now: float, *, is_silent: bool
) -> History:
    windows = extended(history.samples, observed, now - WINDOW)
    carries, grown = history.capacity, windows.grown
    for pod in ready:
        series = grown.get(pod.uid)
        if series and pod.ready_at is not None and series[-2].at - pod.ready_at >= capacity.WARM_UP:
            carries = capacity.learned(carries, series)
    came, turned_away = newest(grown.values(), WINDOW), history.turned_away
    if grown:
        turned_away = turned_away.seen(came.refused, came.retried if turned_away.outside else 0.0, came.at)
    arrived = max(0.0, came.received - turned_away.newest)
    is_busy = history.busy_at is None or came.has_come or busy.may_be_busy(observed)
    return history.seen(
        observed,
        ready,
        now,
        samples=windows.samples,
        restarted_at=max(history.restarted_at, windows.restarted_at),
        silent_since=history.silence(is_silent=is_silent, now=now),
        work_per_request=capacity.work(history.work_per_request, came.finished, came.finished_tokens),
        capacity=carries,
        bursts=history.bursts.seen(arrived, now, came.finished, came.finished_tokens) if grown else history.bursts,
        turned_away=turned_away,
        trend=history.trend.seen(arrived, now) if grown else history.trend,
        busy_at=now if is_busy else history.busy_at,
        has_served=history.has_served or bool(ready),
    )


def _since_ready_changed(ready: Sequence[PodState], history: History, now: float) -> list[Series]:
    """Waits of the ready pods, as far as they speak about today's supply."""
    since, known = max(now - WINDOW, history.ready_changed_at), history.samples
    cut = [rates.since(known[pod.uid], since) for pod in ready if pod.uid in known]
    return [series for series in cut if series]
