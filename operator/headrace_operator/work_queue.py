"""Keyed work: one task a key at a time, marks meanwhile mean one more run, failures back off.

The shape of controller-runtime's work queue. One hanging object delays no other, because each key has its own task.
What fails because of itself is asked less and less often, until its user changes it. What failed because the API server
was unavailable never waits long: when the server is back, so are all of them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass

from headrace_operator.errors import OperatorError, Unavailable

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # (namespace, name)
FIRST_DELAY = 1.0  # seconds after a failure; doubles
LONGEST_DELAY = 60.0  # where the object is at fault
LONGEST_OUTAGE_DELAY = 5.0  # where the API server is


@dataclass(frozen=True, slots=True)
class Backlog:
    """Keys by what happens to them; one that runs may wait for its next run as well."""

    waiting: int
    running: int
    backing_off: int  # failed lately
    oldest_seconds: float  # since the first mark of the one that has waited longest; 0 where none waits


class WorkQueue:
    def __init__(
        self, work: Callable[[Key], Awaitable[None]], failed: Callable[[Key, Exception], Awaitable[None]]
    ) -> None:
        """`failed` hears every exception of `work`; what it raises itself is logged."""
        self._work = work
        self._failed = failed
        self._dirty: dict[Key, float] = {}  # by the loop's time of the first mark
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._blocked: dict[Key, asyncio.TimerHandle] = {}  # failed lately, waiting out their delay
        self._failures: dict[Key, int] = {}

    def mark(self, key: Key, *, is_asked: bool = False) -> None:
        """Work on `key` soon; at once where its user asks for something else. Only from the loop's own thread."""
        self._dirty.setdefault(key, asyncio.get_running_loop().time())
        if is_asked and (waiting := self._blocked.pop(key, None)):
            waiting.cancel()
            self._failures.pop(key, None)
        if key not in self._tasks and key not in self._blocked:
            self._start(key)

    @property
    def backlog(self) -> "Backlog":
        waits = [at for key, at in self._dirty.items() if key not in self._blocked]
        oldest = asyncio.get_running_loop().time() - min(waits) if waits else 0.0
        return Backlog(len(waits), len(self._tasks), len(self._blocked), oldest)

    async def close(self) -> None:
        """Ends what runs and waits for it."""
        for waiting in self._blocked.values():
            waiting.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Key) -> None:
        # In a context of its own: in that of whoever marked, Kopf's, each connection that begins here would keep a
        # whole object alive as long as it is open.
        self._tasks[key] = asyncio.create_task(self._run(key), name="/".join(key), context=Context())

    async def _run(self, key: Key) -> None:
        try:
            while key in self._dirty:
                self._dirty.pop(key)
                await self._once(key)
                if key in self._blocked:
                    return
        finally:
            self._tasks.pop(key, None)

    async def _once(self, key: Key) -> None:
        try:
            await self._work(key)
        except Exception as error:
            _log(f"reconciling {'/'.join(key)} failed", error)
            self._block(key, LONGEST_OUTAGE_DELAY if isinstance(error, Unavailable) else LONGEST_DELAY)
            await self._tell(key, error)
        else:
            self._failures.pop(key, None)

    def _block(self, key: Key, longest: float) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(longest, FIRST_DELAY * 2 ** (failures - 1))
        self._dirty.setdefault(key, asyncio.get_running_loop().time())
        self._blocked[key] = asyncio.get_running_loop().call_later(delay, self._unblock, key)

    def _unblock(self, key: Key) -> None:
        self._blocked.pop(key, None)
        if key in self._dirty and key not in self._tasks:
            self._start(key)

    async def _tell(self, key: Key, error: Exception) -> None:
        try:
            await self._failed(key, error)
        except Exception as another:
            _log(f"the failure of {'/'.join(key)} could not be announced", another)


def _log(what: str, error: Exception) -> None:
    """A trace where the fault may be ours; a line where it was foreseen."""
    trace = None if isinstance(error, OperatorError) else error
    logger.error("%s: %s: %s", what, type(error).__name__, error, exc_info=trace)
