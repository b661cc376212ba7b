"""The threads that compute for an engine, as its event loop sees them: how they are run, told of, and how they fail."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from headrace_server.errors import EngineFailed

News = TypeVar("News")


class EngineThreads(Generic[News]):
    def __init__(self, name: str, hear: Callable[[News], None]) -> None:
        """`hear` is called in the event loop, with what a thread tells."""
        self._name = name
        self._hear = hear
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, news: News) -> None:
        """Called by the threads."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear, news)

    async def run(
        self,
        works: Iterable[Callable[[], None]],
        stop: Callable[[], None],
        failed: Callable[[EngineFailed, Exception | None], None],
    ) -> None:
        """One thread each, until cancelled; then, and when one raises, `stop` is called, which they heed.

        `failed` is called with what every open request is to be told, and with what broke; None: nothing did. Raises
        EngineFailed when one raises.
        """
        self._loop = asyncio.get_running_loop()
        todo = tuple(works)
        pool = ThreadPoolExecutor(max_workers=len(todo), thread_name_prefix=self._name)
        try:
            await asyncio.gather(*(self._loop.run_in_executor(pool, work) for work in todo))
        except asyncio.CancelledError:
            failed(EngineFailed("the engine was stopped before the answer was complete"), None)
            raise
        except Exception as broken:
            failure = EngineFailed(f"the engine broke: {type(broken).__name__}: {broken}")
            failed(failure, broken)
            raise failure from broken
        finally:
            stop()
            pool.shutdown(wait=False)  # a hung device must not take the event loop with it
