"""How fast a queue empties: the tokens that those who begin may cost, a second, while somebody waits.

Counted when a request begins and not as its tokens come, so that answers which end early, places and pages that are
short, and steps that slow down are all in it.
"""

from math import exp

MEMORY = 10.0  # seconds in which an old measurement loses two thirds of its weight
ENOUGH = 0.5  # seconds with somebody waiting before the figure is believed


class DrainRate:
    """Pure: the caller brings the clock."""

    def __init__(self) -> None:
        self._tokens = 0.0  # begun, recent ones count more
        self._seconds = 0.0  # in which somebody waited, likewise
        self._begun = 0
        self._since: float | None = None  # when it was seen last that somebody waits

    @property
    def tokens_per_second(self) -> float | None:
        """None before enough was seen: nobody is refused because of a guess."""
        return self._tokens / self._seconds if self._seconds >= ENOUGH and self._tokens > 0 else None

    def began(self, tokens: int) -> None:
        """A request that may cost so much has left the queue for a step."""
        self._begun += tokens

    def look(self, now: float, waiting: bool) -> None:
        """To be called with every step, after those who begin with it. `waiting`: somebody still does."""
        if self._since is not None:
            seconds = max(0.0, now - self._since)
            kept = exp(-seconds / MEMORY)
            self._tokens = self._tokens * kept + self._begun
            self._seconds = self._seconds * kept + seconds
        self._begun = 0
        self._since = now if waiting else None
