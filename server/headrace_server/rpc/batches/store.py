"""The batch store as the event loop sees it: one thread, in which every call on shelf and ledger runs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from headrace_server.rpc.batches.database import Database
from headrace_server.rpc.batches.ledger import Ledger
from headrace_server.rpc.batches.shelf import Shelf

T = TypeVar("T")


class Store:
    def __init__(self, directory: Path) -> None:
        """Raises OSError with the remedy."""
        self._database = Database(directory)
        self.shelf = Shelf(self._database, directory / "files")
        self.ledger = Ledger(self._database, self.shelf)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch-store")
        self._news = asyncio.Event()

    async def do(self, work: Callable[..., T], *arguments: object, **named: object) -> T:
        """Calls a method of shelf or ledger. Its commit is on disk when this returns. Raises sqlite3.Error, OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments, **named))

    def tell(self) -> None:
        """Something may be to do that was not before."""
        self._news.set()
        self._news = asyncio.Event()

    def next_news(self) -> asyncio.Event:
        """Get it before looking for work, wait for it when there is none: nothing is missed between."""
        return self._news

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._database.close()
