"""How long requests wait for their first step: the promise that the operator checks."""

import math
from collections.abc import Sequence
from itertools import pairwise

from headrace_operator.decide.rates import Series

P95 = 0.95
Histogram = tuple[tuple[float, float], ...]  # (upper bound in seconds, cumulative count), ascending


def p95(pods: Sequence[Series]) -> float | None:
    """Seconds; over the waits that ended within the series and those that have not ended yet. None without any.

    A request that still waits is in no server's histogram. It counts with its age so far, or a queue that stands still
    would look like one without waits; ages are taken as spread evenly up to the oldest one's.
    """
    return quantile(merged([_ended(series) for series in pods] + [_still_waiting(series) for series in pods]), P95)


def typical(pods: Sequence[Series]) -> float | None:
    """The p95 of the pod in the middle, seconds. None without pods.

    A queue on less than half of the pods is an old backlog or uneven routing: requests do not move to another pod, so
    another pod would not shorten it.
    """
    ordered = sorted(p95([series]) or 0.0 for series in pods)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def drains_in(pods: Sequence[Series]) -> float:
    """Seconds until the queues are empty at the pace seen; infinite while they grow or stand."""
    waiting = sum(series[-1].waiting for series in pods)
    if not waiting:
        return 0.0
    seconds = max(series[-1].at - series[0].at for series in pods)
    lost = sum(series[0].waiting for series in pods) - waiting
    return waiting * seconds / lost if lost > 0 else math.inf


def quantile(histogram: Histogram, share: float) -> float | None:
    """Of a cumulative histogram, interpolated within the bucket as Prometheus' histogram_quantile does."""
    total = histogram[-1][1] if histogram else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for upper, count in histogram:
        if count >= rank:
            return lower if math.isinf(upper) else lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = upper, count
    return lower


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """The sum of histograms whose bounds may differ; within a bucket counts are spread evenly."""
    bounds = sorted({bound for histogram in histograms for bound, _ in histogram})
    return tuple((bound, sum(_below(histogram, bound) for histogram in histograms)) for bound in bounds)


def _below(histogram: Histogram, bound: float) -> float:
    lower, below = 0.0, 0.0
    for upper, count in histogram:
        if upper == bound:
            return count
        if upper > bound:
            return below if math.isinf(upper) else below + (count - below) * (bound - lower) / (upper - lower)
        lower, below = upper, count
    return below


def _ended(series: Series) -> Histogram:
    """Waits that ended between the first sample of the process that runs now and the last."""
    first = series[0]
    for before, after in pairwise(series):
        if after.received < before.received or after.tokens < before.tokens:
            first = after
    known = dict(first.queue_waits)
    return tuple((bound, count - known.get(bound, 0.0)) for bound, count in series[-1].queue_waits)


def _still_waiting(series: Series) -> Histogram:
    last = series[-1]
    if not last.waiting or last.oldest_waiting <= 0:
        return ()
    return ((last.oldest_waiting, float(last.waiting)),)
