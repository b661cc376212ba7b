"""Rates from counters of several pods, on one clock for all of them.

One clock: when work moves from an old pod to a new one, the sum stays what it is. A sum of each pod's own mean would
count the moved work twice for as long as the old pod's window remembers it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from headrace_operator.decide.turned_away import NOBODY, TurnedAway
from headrace_operator.decide.values import PodSample

SHORTEST = 0.5  # seconds between two samples; a rate over less is noise
RECENT = 4.0  # seconds, two ticks: a step in the load must be seen within them
DEVIATIONS = 4.0  # of a Poisson count: with less, noise alone would look like a step about once an hour

Series = Sequence[PodSample]  # of one pod, oldest first
Counter = Callable[[PodSample], float]
RECEIVED: Counter = attrgetter("received")
TOKENS: Counter = attrgetter("tokens")


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over all pods together. None before two samples exist: unknown, not zero."""

    arrivals: float | None  # requests
    throughput: float | None  # tokens


def measured(pods: Sequence[Series], turned_away: TurnedAway = NOBODY, *, is_one_process: bool = False) -> Rates:
    """`is_one_process`: it is known that no counter fell within the series."""
    seconds = _seconds(pods)
    if seconds < SHORTEST:
        return Rates(None, None)
    increase = _rises if is_one_process else _increases
    return Rates(_arrivals(pods, turned_away, seconds, increase), increase(pods, TOKENS) / seconds)


def increase(series: Series, counter: Counter) -> float:
    """What a counter gained. One that fell belongs to a new process and started from zero."""
    values = list(map(counter, series))
    before = first = values[0] if values else 0.0
    for value in values:
        if value < before:
            return sum([after - before if after >= before else after for before, after in pairwise(values)])
        before = value
    return before - first  # nearly always


def has_restarted(before: PodSample, after: PodSample) -> bool:
    return after.received < before.received or after.tokens < before.tokens


def since(series: Series, at: float) -> Series:
    """The samples that are not older."""
    begin, end = 0, len(series)
    while begin < end and series[begin].at < at:
        begin += 1
    return series[begin:] if begin else series


def _increases(pods: Sequence[Series], counter: Counter) -> float:
    return sum([increase(series, counter) for series in pods])


def _rises(pods: Sequence[Series], counter: Counter) -> float:
    """The same where no counter fell."""
    return sum([counter(series[-1]) - counter(series[0]) for series in pods])


Increase = Callable[[Sequence[Series], Counter], float]  # of all pods


def _arrivals(pods: Sequence[Series], turned_away: TurnedAway, whole: float, increase: Increase) -> float:
    """The mean of the window, or the newest seconds alone when they cannot belong to that mean.

    Who was refused, came back and said so counts once.
    """
    end = max([series[-1].at for series in pods])
    mean = _came(pods, turned_away, end - whole, increase) / whole
    newest = [series[_begin(series, end - RECENT) :] for series in pods]
    seconds = _seconds(newest)
    before = whole - seconds
    if seconds < SHORTEST or before < RECENT:
        return mean
    count = _came(newest, turned_away, end - seconds, increase)
    earlier = max(0.0, mean * whole - count)  # rounding may leave less than nothing
    expected = earlier / before * seconds
    is_step = count > expected + DEVIATIONS * math.sqrt(expected) + DEVIATIONS
    return count / seconds if is_step else mean


def _came(pods: Sequence[Series], turned_away: TurnedAway, since: float, increase: Increase) -> float:
    return max(0.0, increase(pods, RECEIVED) - turned_away.came_back(since))


def _begin(series: Series, at: float) -> int:
    """The place of the last sample that is not newer than `at`; pods are not scraped at exactly the same moment."""
    begin = len(series) - 1
    while begin > 0 and series[begin].at > at + SHORTEST:
        begin -= 1
    return begin


def _seconds(pods: Sequence[Series]) -> float:
    return max([series[-1].at - series[0].at for series in pods], default=0.0)
