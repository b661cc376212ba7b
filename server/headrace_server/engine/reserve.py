"""What offline work gets while others want the whole engine: a share of the tokens of the steps, and never much more.

A credit and not a clock: each step adds the share of its tokens, and each offline token takes one away. So the share is
kept over any row of steps that is long beside `most`, which 10 seconds are.
"""


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

    def opens(self, tokens: int) -> bool:
        """Whether one more offline request may begin that has so many tokens to fill in."""
        return self.places > 0 and self._credit >= max(1.0, min(tokens, self._most / 2))

    def planned(self, tokens: int, offline: int, wanted: bool) -> None:
        """A step of so many tokens, so many of them offline. `wanted`: both kinds had more work than it could hold."""
        if not wanted:
            self._credit = 0.0
            return
        self._credit = min(self._most, self._credit + self.share * tokens - offline)
