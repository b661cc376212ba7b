"""What offline work gets while others want the whole engine: a share of the tokens of the steps, and never much more.

A credit and not a clock: each step adds the share of its tokens, and each offline token takes one away. So the share is
kept over any row of steps that is long beside `most`, which 10 seconds are.
"""

from dataclasses import dataclass
from math import exp

MEMORY = 2.0  # seconds
ALWAYS = 0.95  # of the time
HALF = 0.5  # of what the door lets wait
LONG = 2.0  # seconds to begin, which a burst on a server with room seldom brings


@dataclass(frozen=True, slots=True)
class Queue:
    """Of online requests, after those who begin with a step have left it."""

    waits: bool  # somebody
    seconds: float  # until all of them have begun; 0 before it was measured
    full: float  # by the door's own measures, 0 to 1: of what may wait


class Crowding:
    """Whether online work saturates the engine: somebody waits nearly always, and not for a burst only. Then there are
    no gaps that offline work could fill, and its reserve is due; before, the reserve would make a busy server a full
    one.

    And not because of offline work: what it took since nobody waited last is no part of the wait that counts, and that
    has to be the longer part. Else 95 of 100 for online work and 10 for offline work would leave a queue that keeps
    itself alive. A queue that is half full is believed without that: the door is about to send others away, who wait
    nowhere. Pure: the caller brings the clock.
    """

    def __init__(self) -> None:
        self._share = 0.0  # of the latest seconds in which somebody waited
        self._crowded = False
        self._offline = 0.0  # share of offline work in the step before
        self._taken = 0.0  # seconds of offline work since nobody waited last
        self._at = 0.0
        self.lasts = False

    def look(self, now: float, queue: Queue, offline: float) -> None:
        """To be called with every step. `offline`: share of offline work in it."""
        passed = max(0.0, now - self._at)
        kept = exp(-passed / MEMORY)
        self._share = self._share * kept + self._crowded * (1 - kept)
        self._taken = self._taken + self._offline * passed if queue.waits else 0.0
        self._crowded, self._offline, self._at = queue.waits, offline, now
        ours = queue.seconds - self._taken
        self.lasts = self._share >= ALWAYS and (queue.full >= HALF or ours > max(LONG, self._taken))


class OfflineReserve:
    """Pure: the tokens are told."""

    def __init__(self, share: float, max_running: int, most: int) -> None:
        """`share`: 0 to 1 of the tokens. `most`: tokens that may be owed, and then come as fast as they can."""
        self.share = share
        # Of the sequences, to begin with. One in a step of one would be all of it.
        self.places = min(max_running - 1, max(1, round(share * max_running))) if share else 0
        self._most = float(most)
        self._credit = 0.0  # tokens

    @property
    def allowance(self) -> int:
        """Offline tokens that the next step may hold."""
        return max(0, int(self._credit))

    def opens(self, tokens: int, running: int) -> bool:
        """Whether one more offline request may begin, beside so many, that has so many tokens to fill in. In a place of
        its own it can wait for its next tokens; in another one it has to be able to pay."""
        price = 1.0 if running < self.places else max(1.0, min(tokens, self._most / 2))
        return self.places > 0 and self._credit >= price

    def planned(self, tokens: int, offline: int, contested: bool) -> None:
        """A step with so many offline tokens, of so many in all: 0 if online work left room for more.

        `contested`: online work had more to do than a token each; when it has not, nothing is owed.
        """
        self._credit = min(self._most, self._credit + self.share * tokens - offline) if contested else 0.0
