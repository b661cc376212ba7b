"""What offline work gets while others want the whole engine: a share of the tokens of the steps, and never much more.

A credit and not a clock: each step adds the share of its tokens, and each offline token takes one away. So the share is
kept over any row of steps that is long beside `most`, which 10 seconds are.
"""

from math import exp

MEMORY = 2.0  # seconds
ALWAYS = 0.95  # of the time


class Crowding:
    """Whether online work saturates the engine: somebody waits nearly always, and not for a burst only. Then there are
    no gaps that offline work could fill, and its reserve is due; before, the reserve would make a busy server a full
    one. Pure: the caller brings the clock."""

    def __init__(self) -> None:
        self._share = 0.0  # of the latest seconds in which somebody waited
        self._crowded = False
        self._at = 0.0

    @property
    def lasts(self) -> bool:
        return self._share >= ALWAYS

    def look(self, now: float, crowded: bool) -> None:
        """To be called with every step. `crowded`: online requests wait that it could not take in."""
        kept = exp(-max(0.0, now - self._at) / MEMORY)
        self._share = self._share * kept + self._crowded * (1 - kept)
        self._crowded, self._at = crowded, now


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
