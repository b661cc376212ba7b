"""What the caches found for one request, told to its caller: header or trailer `x-headrace-cache`."""

from contextvars import ContextVar
from enum import StrEnum

CACHE_HEADER = "x-headrace-cache"


class Lookup(StrEnum):
    """The same member is in the metric label, the header and the test."""

    HIT = "hit"
    SHARED = "shared"  # an equal request is being computed, and this one waits for the same answer
    MISS = "miss"
    BYPASS = "bypass"  # may not be kept: the answer is sampled


class Note:
    """Of one request, which may be looked up in several parts."""

    def __init__(self) -> None:
        self._found: set[Lookup] = set()

    def add(self, lookup: Lookup) -> None:
        self._found.add(lookup)

    @property
    def said(self) -> Lookup | None:
        """The least that was found; None: no cache was asked."""
        return next((each for each in reversed(Lookup) if each in self._found), None)


NOTE: ContextVar[Note | None] = ContextVar("cache note", default=None)


def note(lookup: Lookup) -> None:
    if (here := NOTE.get()) is not None:
        here.add(lookup)
