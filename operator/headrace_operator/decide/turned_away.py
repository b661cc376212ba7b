"""Requests that were refused and are outside now: who comes back and says so is not counted as demand again.

A refused request is demand, for a larger fleet would have taken it. It is that once: a fleet that counts each of its
tries orders for a load that nobody sends. Only as many are taken for a second try as were refused before, so that
callers who always say that they asked before, and those whose first try nobody counted, hide no demand.
"""

from dataclasses import dataclass

PATIENCE = 90.0  # seconds: servers ask to come again within 60, and clients spread that by half
REMEMBERED = 30.0  # seconds in which second tries are known by their time: longer than any window of arrivals

Counted = tuple[float, float]  # (epoch seconds, requests)


@dataclass(frozen=True, slots=True)
class TurnedAway:
    outside: tuple[Counted, ...] = ()  # refused, and not back yet, oldest first
    back: tuple[Counted, ...] = ()  # that came back lately, oldest first
    newest: float = 0.0  # of them, requests that came back since the look before

    def seen(self, refused: float, retried: float, at: float) -> "TurnedAway":
        """With what pods counted since the last look: refused for want of room, and those who said they came again."""
        if not (self.outside or self.back or refused):
            return self
        kept = tuple([entry for entry in self.outside if entry[0] > at - PATIENCE])
        left, outside = _taken(kept, retried)
        came = retried - left
        back = tuple([entry for entry in self.back if entry[0] > at - REMEMBERED])
        return TurnedAway(
            outside=(*outside, (at, refused)) if refused else outside,
            back=(*back, (at, came)) if came else back,
            newest=came,
        )

    def came_back(self, since: float) -> float:
        """Requests, after that moment."""
        return sum([requests for at, requests in self.back if at > since])


NOBODY = TurnedAway()


def _taken(entries: tuple[Counted, ...], requests: float) -> tuple[float, tuple[Counted, ...]]:
    """What is left of `requests` when the oldest entries are taken off, and the entries that are left."""
    for index, (at, count) in enumerate(entries):
        if count > requests:
            return 0.0, ((at, count - requests), *entries[index + 1 :])
        requests -= count
    return requests, ()
