"""What bursts that came twice ask for, so that the third finds its replicas there.

A burst that is shorter than a start is over when the replicas that it ordered come. Only replicas that are there
already serve it, and only the past says how many. Requests that arrive within s seconds, A(s) of them, wait no longer
than d if replicas carry A(s) / (s + d) a second, for every s: the arrival curve of network calculus (Cruz, "A calculus
for network delay", 1991). So each moment has a rate that it needs, and two seconds do not count as if they went on.
"""

from dataclasses import dataclass, replace
from operator import itemgetter

BUCKET = 2.0  # seconds that are counted together: more looks within them tell nothing new
LONGEST = 64.0  # seconds of a burst
ABOVE = 1.5  # times the mean of so long: what needs less is load, which `work` sees, and follows when it falls
BLOCK = 15.0  # seconds of which the highest rate is remembered
WAIT = 0.5  # seconds that a request of a burst may wait: the usual target
APART = 90.0  # seconds between two bursts that are not one
MEMORY = 900.0  # seconds after which a burst is forgotten

Entry = tuple[float, float]  # (begin in epoch seconds, requests), or (begin, requests/s needed)
_BY_RATE = itemgetter(1)


@dataclass(frozen=True, slots=True)
class Bursts:
    buckets: tuple[Entry, ...] = ()  # of the last seconds, oldest first
    blocks: tuple[Entry, ...] = ()  # oldest first
    counted_to: float | None = None  # epoch seconds

    @classmethod
    def restored(cls, rate: float, now: float) -> "Bursts":
        """As if it had come twice just now."""
        return cls(blocks=((now - APART, rate), (now, rate)))

    def seen(self, requests: float, now: float) -> "Bursts":
        """With what arrived since the last look."""
        before = self.counted_to
        if before is None or now - before > BLOCK:  # nobody knows when within the gap they came
            return replace(self, counted_to=now)
        buckets = self.buckets
        if buckets and before - buckets[-1][0] < BUCKET:
            buckets = (*buckets[:-1], (buckets[-1][0], buckets[-1][1] + requests))
        else:
            start = next((n for n, (begin, _) in enumerate(buckets) if begin >= now - LONGEST), len(buckets))
            buckets = (*buckets[start:], (before, requests))
        return Bursts(buckets, _with(self.blocks, _needed(buckets, now), now), now)

    def repeated(self) -> float | None:
        """Requests/s that two bursts needed, each for itself. None without two."""
        first = last = None
        loud = [entry for entry in self.blocks if entry[1] > 0]
        for begin, rate in sorted(loud, key=_BY_RATE, reverse=True):
            first = begin if first is None else min(first, begin)
            last = begin if last is None else max(last, begin)
            if last - first >= APART:
                return rate
        return None


QUIET = Bursts()


def _needed(buckets: tuple[Entry, ...], now: float) -> float:
    """Requests/s, for every span of time that ends now; 0 when it is no burst."""
    arrived, most = 0.0, 0.0
    for begin, requests in reversed(buckets):
        arrived += requests
        seconds = now - begin
        rate = arrived / ((seconds if seconds > BUCKET else BUCKET) + WAIT)
        most = rate if rate > most else most  # 32 times a look: max() takes twice as long
    mean = arrived / max(now - buckets[0][0], BUCKET)
    return most if most > ABOVE * mean else 0.0


def _with(blocks: tuple[Entry, ...], rate: float, now: float) -> tuple[Entry, ...]:
    if blocks and now - blocks[-1][0] < BLOCK:
        begin, known = blocks[-1]
        return blocks if rate <= known else (*blocks[:-1], (begin, rate))
    kept = blocks[1:] if blocks and blocks[0][0] <= now - MEMORY else blocks
    return (*kept, (now, rate))
