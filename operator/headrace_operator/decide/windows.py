"""The recent samples of each pod: what a look adds to them and what it forgets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace_operator.decide.rates import SHORTEST, Series, has_restarted
from headrace_operator.decide.values import Observed, PodSample


@dataclass(frozen=True, slots=True)
class Windows:
    samples: dict[str, Series]  # by pod UID, oldest first
    grown: dict[str, Series]  # those with a new interval, long enough to learn from
    restarted_at: float  # epoch seconds, when a counter fell in a newest interval; -inf = none did


def extended(known: Mapping[str, Series], observed: Observed, since: float) -> Windows:
    """With this look's samples; what is older than `since` or has left the cluster is forgotten."""
    samples: dict[str, Series] = {}
    grown: dict[str, Series] = {}
    restarted_at = -math.inf
    for pod in observed.pods:
        uid = pod.uid
        before = known.get(uid, ())
        series = _extended(before, pod.sample, since)
        if not series:
            continue
        samples[uid] = series
        last = series[-1]
        if len(series) < 2 or (before and before[-1] is last):
            continue
        if has_restarted(series[-2], last):
            restarted_at = max(restarted_at, last.at)
        if last.at - series[-2].at >= SHORTEST:
            grown[uid] = series
    return Windows(samples, grown, restarted_at)


def _extended(series: Series, sample: PodSample | None, since: float) -> Series:
    """With a newer sample; without those that left the window, but for one: a rate needs a point to start from."""
    if sample is not None and (not series or series[-1].at < sample.at):
        # Of samples in quick succession (a burst of watch events) the newest counts.
        is_quick = len(series) >= 2 and series[-1].at - series[-2].at < SHORTEST
        series = (*(series[:-1] if is_quick else series), sample)
    if not series or series[-1].at < since:
        return ()
    old = 0
    while series[old].at < since:
        old += 1
    return series[old - 1 :] if old > 1 else series
