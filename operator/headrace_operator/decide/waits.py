"""How long requests wait for their first step: the promise that the operator checks."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from headrace_operator.decide.buckets import Bucket, bounds_and_counts
from headrace_operator.decide.rates import Series, has_restarted
from headrace_operator.decide.values import PodSample

P95 = 0.95
HAIR = 1e-9  # of a count: what floating point may be off
Histogram = tuple[Bucket, ...]  # ascending
Gained = tuple[Sequence[float], Sequence[float]]  # of one pod: bounds, and cumulative counts within the series
Age = tuple[float, int]  # of requests that still wait: the oldest one's in seconds, and how many they are


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


def measured(pods: Sequence[Series], *, is_one_process: bool = False) -> Waits:
    """`is_one_process`: it is known that no counter fell within the series."""
    gained = [_gained(series[0] if is_one_process else _first(series), series[-1]) for series in pods]
    ages = [_still_waiting(series) for series in pods]
    each = sorted([_p95(one, waiting) or 0.0 for one, waiting in zip(gained, ages, strict=True)])
    p95 = _p95(_added_up(gained), [age for waiting in ages for age in waiting])
    return Waits(p95, each[(len(each) - 1) // 2] if each else None)


def drains_in(pods: Sequence[Series]) -> float:
    """Seconds until the queues are empty at the pace seen; infinite while they grow or stand."""
    waiting = sum([series[-1].waiting for series in pods])
    if not waiting:
        return 0.0
    seconds = max([series[-1].at - series[0].at for series in pods])
    lost = sum([series[0].waiting for series in pods]) - waiting
    return waiting * seconds / lost if lost > 0 else math.inf


def quantile(histogram: Histogram, share: float) -> float | None:
    """Of a cumulative histogram, interpolated within the bucket as Prometheus' histogram_quantile does."""
    return _quantile(*bounds_and_counts(histogram), share)


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """The sum of histograms whose bounds may differ; within a bucket counts are spread evenly."""
    bounds, counts = _merged([bounds_and_counts(histogram) for histogram in histograms])
    return tuple(zip(bounds, counts, strict=True))


def _quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    total = counts[-1] if counts else 0.0
    if total <= 0:
        return None
    index = bisect_left(counts, share * total)
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    return _between(lower, bounds[index], share * total - below, counts[index] - below)


def _between(lower: float, upper: float, part: float, whole: float) -> float:
    """Within a bucket counts are spread evenly; the last one has no end."""
    return lower if math.isinf(upper) else lower + (upper - lower) * part / whole


def _p95(gained: Gained, ages: Sequence[Age]) -> float | None:
    return _p95_with_ages(gained, ages) if ages else _quantile(*gained, P95)


def _p95_with_ages(gained: Gained, ages: Sequence[Age]) -> float:
    """As of `_merged` with a histogram of a single bucket for each age, of which few counts are needed."""
    bounds, counts = gained

    def reached(index: int) -> float:
        return counts[index] + _younger(ages, bounds[index])

    waiting = sum([number for _, number in ages])
    rank = P95 * ((counts[-1] if counts else 0.0) + waiting)
    # With none of those who wait, and with all of them: between these two it must be.
    last, first = bisect_left(counts, rank), bisect_left(counts, (rank - waiting) * (1 - HAIR))
    index = bisect_left(range(len(bounds)), rank, first, last, key=reached)
    lower, ended = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    upper, ended_above = (bounds[index], counts[index]) if index < len(bounds) else (math.inf, ended)
    # Within this bucket the ages are buckets of their own.
    begin, below = lower, ended + _younger(ages, lower)
    for age in sorted([oldest for oldest, _ in ages if lower < oldest < upper]):
        above = _spread(lower, upper, ended, ended_above, age) + _younger(ages, age)
        if above >= rank:
            return _between(begin, age, rank - below, above - below)
        begin, below = age, above
    return _between(begin, upper, rank - below, ended_above + _younger(ages, upper) - below)


def _younger(ages: Sequence[Age], bound: float) -> float:
    """How many still wait that have not waited for longer."""
    return sum([number * bound / oldest if bound < oldest else number for oldest, number in ages])


def _spread(lower: float, upper: float, below: float, count: float, bound: float) -> float:
    """How many of a bucket with so many `below` it, and `count` with it, are not above `bound`."""
    return below if math.isinf(upper) else below + (count - below) * (bound - lower) / (upper - lower)


def _added_up(pods: Sequence[Gained]) -> Gained:
    """Pods of one version of the server count in the same buckets."""
    if not pods:
        return (), ()
    first = pods[0][0]
    if any(bounds is not first and bounds != first for bounds, _ in pods):
        return _merged(pods)
    return first, list(map(sum, zip(*[counts for _, counts in pods], strict=True)))


def _merged(histograms: Sequence[Gained]) -> Gained:
    bounds = sorted({bound for each, _ in histograms for bound in each})
    return bounds, [sum(_below(histogram, bound) for histogram in histograms) for bound in bounds]


def _below(histogram: Gained, bound: float) -> float:
    """How many are not above `bound`; within a bucket counts are spread evenly."""
    bounds, counts = histogram
    index = bisect_left(bounds, bound)
    if index == len(bounds):
        return counts[-1] if counts else 0.0
    upper, count = bounds[index], counts[index]
    if upper == bound:
        return count
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    return _spread(lower, upper, below, count, bound)


def _first(series: Series) -> PodSample:
    """Of the process that runs now."""
    first = before = series[0]
    for after in series:
        if has_restarted(before, after):
            first = after
        before = after
    return first


def _gained(first: PodSample, last: PodSample) -> Gained:
    bounds, counts = bounds_and_counts(last.queue_waits)
    bounds_before, before_counts = bounds_and_counts(first.queue_waits)
    if bounds == bounds_before:
        return bounds, list(map(sub, counts, before_counts))
    known = dict(zip(bounds_before, before_counts, strict=True))
    return bounds, [count - known.get(bound, 0.0) for bound, count in zip(bounds, counts, strict=True)]


def _still_waiting(series: Series) -> Sequence[Age]:
    last = series[-1]
    return ((last.oldest_waiting, last.waiting),) if last.waiting and last.oldest_waiting > 0 else ()
