"""What the bursts of the last half hour ask for, so that the next one finds its replicas there.

A burst that is shorter than a start is over when the replicas that it ordered come. Only replicas that are there
already serve it, and only the past says how many. Requests that arrive within s seconds, A(s) of them, wait no longer
than d if replicas carry A(s) / (s + d) a second, for every s: the arrival curve of network calculus (Cruz, "A calculus
for network delay", 1991). So each moment has a rate that it needs, and two seconds do not count as if they went on.
The rate that is kept is a quantile over requests, not the highest: what few requests need costs more than it saves.
"""

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class Bursts:
    buckets: tuple[Bucket, ...] = ()  # of the last seconds, oldest first
    blocks: tuple[Block, ...] = ()  # oldest first
    counted_to: float | None = None  # epoch seconds

    @classmethod
    def restored(cls, rate: float, now: float) -> "Bursts":
        """As if the last minute had needed it throughout."""
        return cls(blocks=tuple((now - BLOCK * back, rate, rate * BLOCK) for back in reversed(range(1, FEWEST + 1))))

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
        return Bursts(buckets, _with(self.blocks, _needed(buckets, now), requests, now), now)

    def usual(self) -> float | None:
        """Requests/s with which all but SHARE of the requests had what they needed.

        None where that is no burst, or with less than a minute of memory.
        """
        loud = [(rate, requests) for _, rate, requests in self.blocks if rate]
        if not loud or len(self.blocks) < FEWEST:
            return None
        left = SHARE * sum([requests for _, _, requests in self.blocks])
        for rate, requests in sorted(loud, reverse=True):
            left -= requests
            if left < 0:
                return rate
        return None


QUIET = Bursts()


def _needed(buckets: tuple[Bucket, ...], now: float) -> float:
    """Requests/s, for every span of time that ends now; 0 when it is no burst."""
    arrived, most = 0.0, 0.0
    for begin, requests in reversed(buckets):
        arrived += requests
        seconds = now - begin
        rate = arrived / ((seconds if seconds > BUCKET else BUCKET) + WAIT)
        most = rate if rate > most else most  # 32 times a look: max() takes twice as long
    mean = arrived / max(now - buckets[0][0], BUCKET)
    return most if most > ABOVE * mean else 0.0


def _with(blocks: tuple[Block, ...], rate: float, requests: float, now: float) -> tuple[Block, ...]:
    if blocks and now - blocks[-1][0] < BLOCK:
        begin, known, before = blocks[-1]
        return (*blocks[:-1], (begin, max(rate, known), before + requests))
    kept = blocks[1:] if blocks and blocks[0][0] <= now - MEMORY else blocks
    return (*kept, (now, rate, requests))
