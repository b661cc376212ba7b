"""How far a job is: a bar on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines


class Progress:
    def __init__(self, total: int, done: int, clock: Callable[[], float], out: TextIO = sys.stderr) -> None:
        self._bar = tqdm(total=total, initial=done, unit=" requests", file=out, disable=not out.isatty())
        self._out = out
        self._total = total
        self._done = done
        self._clock = clock
        self._shown_at = clock()
        self._paused_at = self._shown_at - EVERY

    def one(self) -> None:
        self._done += 1
        self._bar.update()
        if self._bar.disable and (self._done == self._total or self._clock() - self._shown_at >= EVERY):
            self._shown_at = self._clock()
            self.say(f"{self._done} of {self._total} results")

    def pause(self, why: str) -> None:
        """Each request that waits says so; one of them is enough to show."""
        if self._clock() - self._paused_at >= EVERY:
            self._paused_at = self._clock()
            self.say(f"waiting for the server: {why}")

    def say(self, message: str) -> None:
        self._bar.clear()
        self._out.write(f"headrace: {message}\n")
        self._out.flush()

    def close(self) -> None:
        self._bar.close()
