"""How fast a replica's queue empties, as the server's engine/drain_rate.py counts it; it says who is refused.

The server counts tokens to be generated beside, and believes the slower rate; the published tables are without that.
"""

from math import exp

MEMORY = 10.0  # seconds in which an old measurement loses two thirds of its weight
ENOUGH = 0.5  # seconds with somebody waiting before the figure is believed


class DrainRate:
    __slots__ = ("_begun", "_seconds", "_since", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0  # begun, recent ones count more
        self._seconds = 0.0  # in which somebody waited, likewise
        self._begun = 0
        self._since: float | None = None  # when it was seen last that somebody waits

    def seconds(self, tokens: int) -> float | None:
        """Until so many that wait have begun; None before enough was seen: nobody is refused because of a guess."""
        if not tokens:
            return 0.0
        return tokens * self._seconds / self._tokens if self._seconds >= ENOUGH and self._tokens > 0 else None

    def began(self, tokens: int) -> None:
        self._begun += tokens

    def look(self, now: float, *, waiting: bool) -> None:
        """After those who begin with a step. `waiting`: somebody still does."""
        if self._since is not None:
            seconds = max(0.0, now - self._since)
            kept = exp(-seconds / MEMORY)
            self._tokens = self._tokens * kept + self._begun
            self._seconds = self._seconds * kept + seconds
        self._begun = 0
        self._since = now if waiting else None
