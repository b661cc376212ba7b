"""Keyed work: one task a key at a time, marks meanwhile mean one more run, failures back off.

The shape of controller-runtime's work queue. One hanging object delays no other, because each key has its own task.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # (namespace, name)
FIRST_DELAY = 1.0  # seconds after a failure; doubles
LONGEST_DELAY = 60.0


class WorkQueue:
    def __init__(
        self, work: Callable[[Key], Awaitable[None]], failed: Callable[[Key, Exception], Awaitable[None]]
    ) -> None:
        """`failed` hears every exception of `work`; what it raises itself is logged."""
        self._work = work
        self._failed = failed
        self._dirty: set[Key] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._blocked: set[Key] = set()  # failed lately, waiting out their delay
        self._failures: dict[Key, int] = {}

    def mark(self, key: Key) -> None:
        """Work on `key` soon. Only from the loop's own thread."""
        self._dirty.add(key)
        if key not in self._tasks and key not in self._blocked:
            self._start(key)

    def forget(self, key: Key) -> None:
        self._dirty.discard(key)
        self._failures.pop(key, None)

    async def close(self) -> None:
        """Ends what runs and waits for it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Key) -> None:
        self._tasks[key] = asyncio.create_task(self._run(key), name="/".join(key))

    async def _run(self, key: Key) -> None:
        try:
            while key in self._dirty:
                self._dirty.discard(key)
                await self._once(key)
                if key in self._blocked:
                    return
        finally:
            self._tasks.pop(key, None)

    async def _once(self, key: Key) -> None:
        try:
            await self._work(key)
        except Exception as error:
            logger.exception("reconciling %s failed", "/".join(key))
            self._block(key)
            await self._tell(key, error)
        else:
            self._failures.pop(key, None)

    def _block(self, key: Key) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1))
        self._blocked.add(key)
        self._dirty.add(key)
        asyncio.get_running_loop().call_later(delay, self._unblock, key)

    def _unblock(self, key: Key) -> None:
        self._blocked.discard(key)
        if key in self._dirty and key not in self._tasks:
            self._start(key)

    async def _tell(self, key: Key, error: Exception) -> None:
        try:
            await self._failed(key, error)
        except Exception:
            logger.exception("the failure of %s could not be announced", "/".join(key))
