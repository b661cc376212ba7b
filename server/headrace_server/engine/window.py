"""The batching window: an idle engine waits a moment for others, if they come so often that the moment pays.

Only an idle one: while steps run, who comes joins the next one, which is sooner than any window.
"""

SLOWLY = 0.25  # share of the newest pause in the average


class BatchingWindow:
    """Pure: the caller brings the clock."""

    def __init__(self, window: float) -> None:
        """`window`: seconds that a request waits for others at most; 0 = none does."""
        self._window = window
        self._pause: float | None = None  # seconds from one arrival to the next, on average
        self._latest: float | None = None

    def arrived(self, at: float) -> None:
        if self._latest is not None:
            pause = max(0.0, at - self._latest)
            self._pause = pause if self._pause is None else self._pause + SLOWLY * (pause - self._pause)
        self._latest = at

    def until(self, first: float) -> float:
        """When the request that arrived at `first` has waited enough: at once if nobody else is expected in time."""
        alone = self._pause is None or self._pause >= self._window
        return first if alone else first + self._window
