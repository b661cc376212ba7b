"""Stop strings seen in the step that completes them, from the bytes of its token: the next step is then never planned.

The doors search the text as well, and they decide what is shown: bytes that are no text are replaced there, not here.
"""

from collections.abc import Callable, Sequence


class StopMatcher:
    """A `request.Stops` for one answer. A token costs O(longest stop string), however long the answer is."""

    def __init__(self, stops: Sequence[str], bytes_of: Callable[[int], bytes], not_before: int = 0) -> None:
        """`bytes_of` one token, as part of a text. The first `not_before` tokens are not searched."""
        self._stops = tuple(stop.encode() for stop in stops)
        self._bytes_of = bytes_of
        self._unsearched = not_before
        self._most_kept = max(map(len, self._stops), default=1) - 1
        self._end = b""  # of the text so far; no stop string fits into it

    def feed(self, token_id: int) -> bool:
        """True when this token completes a stop string."""
        if self._unsearched > 0:
            self._unsearched -= 1
            return False
        text = self._end + self._bytes_of(token_id)
        self._end = text[max(0, len(text) - self._most_kept) :]
        return any(stop in text for stop in self._stops)
