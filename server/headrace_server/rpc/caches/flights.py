"""Equal requests at the same time are computed once. Whoever leaves takes nothing from the others; the last ends it.

An engine refuses what would be late and stops what is, so a computation has the deadline of the request that began it.
Another one waits with it only if that costs it at most GIVES_UP of its own time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from headrace_server.errors import DeadlineExceeded

GIVES_UP = 0.1  # of its timeout
F = TypeVar("F", bound="Flight")


class Flight:
    """One computation in a task of its own, for as long as somebody waits for it."""

    def __init__(self, deadline: float | None) -> None:
        """`deadline` on the event loop's clock; None: none."""
        self.deadline = deadline
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, task: "asyncio.Task[None]", ended: Callable[["asyncio.Task[None]"], None]) -> None:
        self._task = task
        task.add_done_callback(ended)  # also when it is cancelled before its first step

    def suits(self, timeout: float | None, now: float) -> bool:
        """For somebody with so many seconds from now."""
        if self.deadline is None:
            return True
        return timeout is not None and self.deadline >= now + timeout * (1 - GIVES_UP)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Leaving the block as the last one cancels the work, and waits until what it held is free."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting and self._task is not None and not self._task.done():
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_left(self) -> bool:
        return self._task is not None and (self._task.done() or self._task.cancelling() > 0)


class Flights(Generic[F]):
    """Those under way, by what they compute."""

    def __init__(self) -> None:
        self._flights: dict[bytes, F] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def under_way(self, key: bytes, timeout: float | None, now: float) -> F | None:
        """One to wait for."""
        flight = self._flights.get(key)
        return flight if flight is not None and not flight.is_left and flight.suits(timeout, now) else None

    def begin(self, keys: tuple[bytes, ...], flight: F, work: Coroutine[None, None, None]) -> F:
        """The latest one of a key is the one to join: its deadline is the latest."""
        self._flights.update(dict.fromkeys(keys, flight))

        def forget(_: "asyncio.Task[None]") -> None:
            for key in keys:
                if self._flights.get(key) is flight:
                    del self._flights[key]

        flight.start(asyncio.create_task(work, name="flight"), forget)
        return flight


async def in_time(awaited: Awaitable[object], until: float | None, *, started: bool) -> None:
    """`until` on the event loop's clock. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout_at(until):
            await awaited
    except TimeoutError as late:
        raise DeadlineExceeded("the deadline passed while an equal request was computed", started=started) from late
