"""Who is inside: both doors count here, and the drain waits here."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Arrivals:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inside = 0
        self._latest = clock()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        return self._inside

    @contextmanager
    def one(self) -> Iterator[None]:
        """From the first look at a request to the last byte of its answer."""
        self._latest = self._clock()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()

    def quiet_for(self) -> float:
        """Seconds since the latest request came in, whether or not it is answered."""
        return self._clock() - self._latest

    async def all_left(self) -> None:
        await self._empty.wait()
