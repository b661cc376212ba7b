"""What the bursts of the last half hour ask for, so that the next one finds its replicas there.

A burst that is shorter than a start is over when the replicas that it ordered come. Only replicas that are there
already serve it, and only the past says how many. So the arrivals of the last half hour are played once more through a
queue from which R requests are taken a second (a fluid queue, by Lindley's recursion), and the least R is kept with
which at most LATE of them would have waited longer than WAIT. What lasts is no burst: `work` follows it, so each moment
is served at no less than ABOVE times the load around it.
"""

import math
from dataclasses import dataclass
from operator import itemgetter

BUCKET = 2.0  # seconds that are counted together at least: more looks within them tell nothing new
GAP = 15.0  # seconds between two looks of which nobody knows when within them requests came
AROUND = 64.0  # seconds before and after a moment: what arrives in the mean of the busier of both is its load
ABOVE = 1.5  # times the load: what needs less is no burst
WAIT = 0.5  # seconds that a request of a burst may wait: the usual target
LATE = 0.1  # of the requests, which may wait longer: replicas for the worst minute stand idle for the others
MEMORY = 1800.0  # seconds after which a burst is forgotten
TURN = 30.0  # seconds between two times that the past is played: it takes as long as a few decisions
FEWEST = 60.0  # seconds: of less nothing is typical
LEAST = 800.0  # seconds: what came in a shorter memory came once in so long, or the first burst of all would be usual
NEAR = 0.02  # of the rate, up to which it is looked for
TYPICAL = 1000.0  # requests over which their work is averaged: the mean of fewer trembles, and its peaks would be kept

Bucket = tuple[float, float, float]  # (end in epoch seconds, seconds, requests)
Moment = tuple[float, float, float, float]  # a bucket, and the least requests/s that are served in it
_REQUESTS = itemgetter(2)


@dataclass(frozen=True, slots=True)
class Bursts:
    fresh: tuple[Bucket, ...] = ()  # of the last minutes, oldest first
    past: tuple[Moment, ...] = ()  # of which what came before and after is known, oldest first
    counted_to: float | None = None  # epoch seconds
    played_at: float = 0.0  # epoch seconds
    needed: float | None = None  # requests/s
    finished: float = 0.0  # requests, the older the less
    tokens: float = 0.0  # of them, prompt + generated

    @classmethod
    def restored(cls, tokens_per_second: float, work_per_request: float, now: float) -> "Bursts":
        """As if the last minute had needed it throughout."""
        rate = tokens_per_second / work_per_request
        minute = (now, FEWEST, rate * (FEWEST + WAIT), 0.0)
        return cls(past=(minute,), played_at=now, needed=rate, finished=1.0, tokens=work_per_request)

    def seen(self, requests: float, now: float, finished: float, tokens: float) -> "Bursts":
        """With what arrived and what finished since the last look."""
        stays = math.exp(-finished / TYPICAL) if finished else 1.0
        finished, tokens = self.finished * stays + finished, self.tokens * stays + tokens
        fresh, past, before = self.fresh, self.past, self.counted_to
        if before is None or not 0.0 <= now - before <= GAP:  # also of a clock that was set back
            return Bursts(fresh, past, now, self.played_at, self.needed, finished, tokens)
        fresh = _with(fresh, requests, before, now)
        if now - self.played_at < TURN:
            return Bursts(fresh, past, now, self.played_at, self.needed, finished, tokens)
        past = (*_after(past, now - MEMORY), *_told(fresh, past[-1][0] if past else 0.0, now - AROUND))
        kept = tuple([bucket for bucket in fresh if bucket[0] > now - 2 * AROUND])
        return Bursts(kept, past, now, now, _needed(past, self.needed), finished, tokens)

    def usual(self) -> float | None:
        """Tokens/s with which all but LATE of the requests would have had what they needed.

        None where that is no burst, or with less than a minute of memory.
        """
        if self.needed is None or not self.finished:
            return None
        return self.needed * self.tokens / self.finished


QUIET = Bursts()


def _with(fresh: tuple[Bucket, ...], requests: float, before: float, now: float) -> tuple[Bucket, ...]:
    if fresh and fresh[-1][0] == before and fresh[-1][1] < BUCKET:
        _, seconds, known = fresh[-1]
        return (*fresh[:-1], (now, seconds + now - before, known + requests))
    return (*fresh, (now, now - before, requests))


def _after(past: tuple[Moment, ...], since: float) -> tuple[Moment, ...]:
    old, length = 0, len(past)
    while old < length and past[old][0] <= since:
        old += 1
    return past[old:]


def _told(fresh: tuple[Bucket, ...], since: float, until: float) -> list[Moment]:
    """Of those that ended in between, with what is served in them at least."""
    told, ends = [], [end for end, _, _ in fresh]
    came = [0.0]
    for _, _, requests in fresh:
        came.append(came[-1] + requests)
    first = last = 0  # of those around it
    for index, (end, seconds, requests) in enumerate(fresh):
        while ends[first] <= end - AROUND:
            first += 1
        while last < len(fresh) and ends[last] <= end - seconds + AROUND:
            last += 1
        if since < end <= until:
            load = max(came[index + 1] - came[first], came[last] - came[index]) / AROUND
            told.append((end, seconds, requests, ABOVE * load))
    return told


def _needed(past: tuple[Moment, ...], known: float | None) -> float | None:
    """The least requests/s for which few enough are late, or a little more. `known`: the answer of the turn before."""
    seconds = past[-1][0] - past[0][0] + past[0][1] if past else 0.0
    if seconds < FEWEST:
        return None
    late = LATE * sum(map(_REQUESTS, past)) * max(1.0, LEAST / seconds)
    if not _are_late(past, 0.0, late):
        return None
    low, high = 0.0, known or max([requests / max(lasted, BUCKET) for _, lasted, requests, _ in past])
    if known and not _are_late(past, known, late) and _are_late(past, known * (1 - NEAR), late):
        return known  # as most of the time
    while _are_late(past, high, late):
        low, high = high, 2 * high
    while high - low > NEAR * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _are_late(past, middle, late) else (low, middle)
    return high


def _are_late(past: tuple[Moment, ...], rate: float, most: float) -> bool:
    """Do more than `most` requests come with a burst, and to a queue that is longer than WAIT?"""
    queue = late = 0.0
    for _, seconds, requests, followed in past:
        served = followed if followed > rate else rate  # a thousand times a turn: max() takes twice as long
        queue += requests - served * seconds
        if queue <= 0.0:
            queue = 0.0
        elif queue > WAIT * served and requests > followed * seconds:
            late += requests
            if late > most:
                return True
    return False
