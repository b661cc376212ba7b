"""How long requests wait for their first step: the promise that the operator checks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from headrace_operator.decide.rates import RECEIVED, TOKENS, Series, falls

P95 = 0.95
Histogram = tuple[tuple[float, float], ...]  # (upper bound in seconds, cumulative count), ascending
Span = tuple[Histogram, Histogram]  # of one pod: at the beginning and at the end


@dataclass(frozen=True, slots=True)
class Waits:
    """Over the waits that ended within the series and those that have not ended yet.

    A request that still waits is in no server's histogram. It counts with its age so far, or a queue that stands still
    would look like one without waits; ages are taken as spread evenly up to the oldest one's.
    """

    p95: float | None  # seconds; None when nobody waited
    # The p95 of the pod in the middle, seconds; None without pods. A queue on less than half of the pods is an old
    # backlog or uneven routing: requests do not move to another pod, so another pod would not shorten it.
    typical: float | None


def measured(pods: Sequence[Series]) -> Waits:
    spans = [_span(series) for series in pods]
    standing = [_still_waiting(series) for series in pods]
    p95 = _added_up if _are_alike(spans) else _merged
    each = sorted([p95((span,), (waits,)) or 0.0 for span, waits in zip(spans, standing, strict=True)])
    return Waits(p95(spans, standing), each[(len(each) - 1) // 2] if each else None)


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
            return _between(lower, upper, rank - below, count - below)
        lower, below = upper, count
    return lower


def _between(lower: float, upper: float, part: float, whole: float) -> float:
    """Within a bucket counts are spread evenly; the last one has no end."""
    return lower if math.isinf(upper) else lower + (upper - lower) * part / whole


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


def _are_alike(spans: Sequence[Span]) -> bool:
    """Do all count in the same buckets? Pods of one version of the server do."""
    bounds = [next(zip(*histogram, strict=True), ()) for span in spans for histogram in span]
    return bool(bounds) and bool(bounds[0]) and bounds.count(bounds[0]) == len(bounds)


def _added_up(spans: Sequence[Span], standing: Sequence[Histogram]) -> float | None:
    """Of histograms with the same bounds; adds up only as many buckets as it takes to reach the share."""
    if any(standing):
        bounds = [bound for bound, _ in spans[0][1]]
        gained = [[now - then for (_, now), (_, then) in zip(after, before, strict=True)] for before, after in spans]
        ended = tuple(zip(bounds, map(sum, zip(*gained, strict=True)), strict=True))
        return quantile(_with_standing(ended, standing), P95)
    total = sum([after[-1][1] - before[-1][1] for before, after in spans])
    if total <= 0:
        return None
    rank, lower, below = P95 * total, 0.0, 0.0
    for index, (upper, _) in enumerate(spans[0][1]):
        count = sum([after[index][1] - before[index][1] for before, after in spans])
        if count >= rank:
            return _between(lower, upper, rank - below, count - below)
        lower, below = upper, count
    return lower


def _merged(spans: Sequence[Span], standing: Sequence[Histogram]) -> float | None:
    """Of any histograms."""
    return quantile(merged([*(_gained(*span) for span in spans), *standing]), P95)


def _with_standing(ended: Histogram, standing: Sequence[Histogram]) -> Histogram:
    """`merged` of one histogram and many that have one bucket each: as fast as a full queue on many pods asks for."""
    ages = [bucket for histogram in standing for bucket in histogram]
    bounds = sorted({bound for bound, _ in (*ended, *ages)})
    return tuple(
        (
            bound,
            _below(ended, bound) + sum([count * bound / oldest if bound < oldest else count for oldest, count in ages]),
        )
        for bound in bounds
    )


def _span(series: Series) -> Span:
    """From the first sample of the process that runs now to the last."""
    first = series[0]
    if falls(series, RECEIVED) or falls(series, TOKENS):
        for before, after in pairwise(series):
            if after.received < before.received or after.tokens < before.tokens:
                first = after
    return tuple(first.queue_waits), tuple(series[-1].queue_waits)


def _gained(before: Histogram, after: Histogram) -> Histogram:
    known = dict(before)
    return tuple((bound, count - known.get(bound, 0.0)) for bound, count in after)


def _still_waiting(series: Series) -> Histogram:
    last = series[-1]
    if not last.waiting or last.oldest_waiting <= 0:
        return ()
    return ((last.oldest_waiting, float(last.waiting)),)
