"""Rates from counters of several pods, on one clock for all of them.

One clock: when work moves from an old pod to a new one, the sum stays what it is. A sum of each pod's own mean would
count the moved work twice for as long as the old pod's window remembers it.
"""

import math
from collections.abc import Callable, Sequence

from headrace_operator.decide.values import PodSample

SHORTEST = 0.5  # seconds between two samples; a rate over less is noise
RECENT = 4.0  # seconds, two ticks: a step in the load must be seen within them
DEVIATIONS = 4.0  # of a Poisson count: with less, noise alone would look like a step about once an hour

Series = Sequence[PodSample]  # of one pod, oldest first
Counter = Callable[[PodSample], float]


def increase(series: Series, counter: Counter) -> float:
    """What a counter gained. One that fell belongs to a new process and started from zero."""
    gained, before = 0.0, None
    for sample in series:
        value = counter(sample)
        if before is not None:
            gained += value - before if value >= before else value
        before = value
    return gained


def rate(pods: Sequence[Series], counter: Counter) -> float | None:
    """Per second, over all pods together. None before two samples exist: unknown, not zero."""
    seconds = _seconds(pods)
    return None if seconds < SHORTEST else sum(increase(series, counter) for series in pods) / seconds


def arrivals(pods: Sequence[Series]) -> float | None:
    """Requests per second: the mean of the window, or the newest seconds alone when they cannot belong to that mean."""
    mean = rate(pods, _received)
    if mean is None:
        return None
    end = max(series[-1].at for series in pods)
    recent = [_since(series, end - RECENT) for series in pods]
    seconds, before = _seconds(recent), _seconds(pods) - _seconds(recent)
    if seconds < SHORTEST or before < RECENT:
        return mean
    count = sum(increase(series, _received) for series in recent)
    expected = (mean * (seconds + before) - count) / before * seconds
    is_step = count > expected + DEVIATIONS * math.sqrt(expected) + DEVIATIONS
    return count / seconds if is_step else mean


def _received(sample: PodSample) -> float:
    return sample.received


def _since(series: Series, at: float) -> Series:
    """From the last sample that is not newer than `at`; pods are not scraped at exactly the same moment."""
    known = [index for index, sample in enumerate(series) if sample.at <= at + SHORTEST]
    return series[known[-1] if known else 0 :]


def _seconds(pods: Sequence[Series]) -> float:
    return max((series[-1].at - series[0].at for series in pods), default=0.0)
