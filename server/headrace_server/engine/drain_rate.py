"""How fast a queue empties: the tokens that those who begin may cost, a second, while somebody waits.

Counted when a request begins and not as its tokens come, so that answers which end early, places and pages that are
short, and steps that slow down are all in it.
"""

from dataclasses import dataclass
from math import exp

# Seconds in which an old measurement loses two thirds of its weight. The lower figure of the two is believed: when
# those who are cheap by the token have begun and others are left, the queue has to be seen to slow down early.
MEMORIES = (10.0, 2.0)
ENOUGH = 0.5  # seconds with somebody waiting before the figure is believed


@dataclass(slots=True)
class _Recent:
    memory: float  # seconds
    tokens: float = 0.0  # begun, recent ones count more
    seconds: float = 0.0  # in which somebody waited, likewise

    def saw(self, tokens: int, seconds: float) -> None:
        kept = exp(-seconds / self.memory)
        self.tokens = self.tokens * kept + tokens
        self.seconds = self.seconds * kept + seconds


class DrainRate:
    """Pure: the caller brings the clock."""

    def __init__(self) -> None:
        self._recent = tuple(map(_Recent, MEMORIES))
        self._begun = 0
        self._since: float | None = None  # when it was seen last that somebody waits

    @property
    def tokens_per_second(self) -> float | None:
        """None before enough was seen: nobody is refused because of a guess."""
        rates = [one.tokens / one.seconds for one in self._recent if one.seconds >= ENOUGH and one.tokens > 0]
        return min(rates, default=None)

    def began(self, tokens: int) -> None:
        """A request that may cost so much has left the queue for a step."""
        self._begun += tokens

    def look(self, now: float, waiting: bool) -> None:
        """To be called with every step, after those who begin with it. `waiting`: somebody still does."""
        if self._since is not None:
            for one in self._recent:
                one.saw(self._begun, max(0.0, now - self._since))
        self._begun = 0
        self._since = now if waiting else None
