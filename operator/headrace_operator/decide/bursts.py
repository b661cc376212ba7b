"""What the bursts of the last half hour ask for, so that the next one finds its replicas there.

A burst that is shorter than a start is over when the replicas that it ordered come. Only replicas that are there
already serve it, and only the past says how many. Requests that arrive within s seconds, A(s) of them, wait no longer
than d if replicas carry A(s) / (s + d) a second, for every s: the arrival curve of network calculus (Cruz, "A calculus
for network delay", 1991). So each moment has a rate that it needs, and two seconds do not count as if they went on.
The rate that is kept is a quantile over requests, not the highest: what few requests need costs more than it saves.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace
from operator import itemgetter

BUCKET = 2.0  # seconds that are counted together: more looks within them tell nothing new
LONGEST = 64.0  # seconds of a burst
ABOVE = 1.5  # times the mean of so long: what needs less is load, which `work` sees, and follows when it falls
BLOCK = 15.0  # seconds of which the highest rate is remembered
WAIT = 0.5  # seconds that a request of a burst may wait: the usual target
MEMORY = 1800.0  # seconds after which a burst is forgotten
SHARE = 0.2  # of the requests of so long, which came while more was needed than is kept
FEWEST = 4  # blocks: of less than a minute nothing is typical

Bucket = tuple[float, float]  # (begin in epoch seconds, requests)
Block = tuple[float, float, float]  # (begin in epoch seconds, requests/s needed, requests)
_REQUESTS = itemgetter(2)
_COUNT = itemgetter(1)


@dataclass(frozen=True, slots=True)
class Past:
    """Blocks that are complete, with what each look asks of them: 120 are too many to go through every time."""

    blocks: tuple[Block, ...] = ()  # oldest first
    requests: float = 0.0
    loud: tuple[tuple[float, float], ...] = ()  # (requests/s needed, requests) of those that had a burst

    @classmethod
    def of(cls, blocks: tuple[Block, ...]) -> "Past":
        loud = tuple([(rate, requests) for _, rate, requests in blocks if rate])
        return cls(blocks, sum(map(_REQUESTS, blocks)), loud)

    def with_newer(self, block: Block | None, now: float) -> "Past":
        if block is None:
            return self
        _, rate, requests = block
        blocks, loud = (*self.blocks, block), (*self.loud, (rate, requests)) if rate else self.loud
        if blocks[0][0] <= now - MEMORY:
            blocks, loud = blocks[1:], loud[1:] if blocks[0][1] else loud
        return Past(blocks, sum(map(_REQUESTS, blocks)), loud)


@dataclass(frozen=True, slots=True)
class Bursts:
    buckets: tuple[Bucket, ...] = ()  # of the last seconds, oldest first
    past: Past = Past()
    block: Block | None = None  # that goes on
    counted_to: float | None = None  # epoch seconds

    @classmethod
    def restored(cls, rate: float, now: float) -> "Bursts":
        """As if the last minute had needed it throughout."""
        blocks = [(now - BLOCK * back, rate, rate * BLOCK) for back in reversed(range(1, FEWEST + 1))]
        return cls(past=Past.of(tuple(blocks[:-1])), block=blocks[-1])

    def seen(self, requests: float, now: float) -> "Bursts":
        """With what arrived since the last look."""
        before = self.counted_to
        if before is None or now - before > BLOCK:  # nobody knows when within the gap they came
            return replace(self, counted_to=now)
        buckets = self.buckets
        if buckets and before - buckets[-1][0] < BUCKET:
            buckets = (*buckets[:-1], (buckets[-1][0], buckets[-1][1] + requests))
        else:
            old, length = 0, len(buckets)
            while old < length and buckets[old][0] < now - LONGEST:
                old += 1
            buckets = (*buckets[old:], (before, requests))
        rate, block = _needed(buckets, now), self.block
        if block and now - block[0] < BLOCK:
            begin, known, came = block
            return Bursts(buckets, self.past, (begin, max(rate, known), came + requests), now)
        return Bursts(buckets, self.past.with_newer(block, now), (now, rate, requests), now)

    def usual(self) -> float | None:
        """Requests/s with which all but SHARE of the requests had what they needed.

        None where that is no burst, or with less than a minute of memory.
        """
        past, (_, rate, requests) = self.past, self.block or (0.0, 0.0, 0.0)
        loud = (*past.loud, (rate, requests)) if rate else past.loud
        if not loud or len(past.blocks) + 1 < FEWEST:
            return None
        left = SHARE * (past.requests + requests)
        for needed, came in sorted(loud, reverse=True):
            left -= came
            if left < 0:
                return needed
        return None


QUIET = Bursts()


def _needed(buckets: tuple[Bucket, ...], now: float) -> float:
    """Requests/s, for every span of time that ends now; 0 when it is no burst."""
    whole = max(now - buckets[0][0], BUCKET)
    typical = ABOVE * (sum(map(_COUNT, reversed(buckets))) / whole)
    arrived, most = 0.0, 0.0
    # Over more seconds than this not even all of them would be a burst.
    for begin, requests in reversed(buckets[bisect_left(buckets, (now - whole / ABOVE, 0.0)) :]):
        arrived += requests
        seconds = now - begin
        rate = arrived / ((seconds if seconds > BUCKET else BUCKET) + WAIT)
        most = rate if rate > most else most  # 20 times a look: max() takes twice as long
    return most if most > typical else 0.0
