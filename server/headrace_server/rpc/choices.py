"""Several choices of one answer: `n` of each prompt, from one engine, told apart by their index.

All are in the engine before the first word goes out, so a refusal is still a refusal of the whole; what their prompts
have in common is computed once, by the prefix cache.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from headrace_server.rpc.answers import Answers, Piece
from headrace_server.rpc.ask import INT64, Ask

Indexed = tuple[int, Piece]  # the index of a choice, and what is new in it


@asynccontextmanager
async def opened(answers: Answers, asks: Sequence[Ask], n: int) -> AsyncIterator[AsyncIterator[Indexed]]:
    """Choice number i is of prompt i // n. Refuses with a ServerError before anything is yielded.

    Leaving the block cancels what still runs.
    """
    if len(asks) * n == 1:
        async with answers.open(asks[0]) as pieces:
            yield _alone(pieces)
        return
    async with AsyncExitStack() as stack:
        choices = [
            await stack.enter_async_context(answers.open(_variant(ask, one))) for ask in asks for one in range(n)
        ]
        pump = _Pump(choices)
        stack.push_async_callback(pump.stop)  # before the choices close: none may be read meanwhile
        yield pump.pieces()


def _variant(ask: Ask, number: int) -> Ask:
    """Equal seeds would give equal choices."""
    seed = ask.sampling.seed
    if seed is None or not number:
        return ask
    following = seed + number if seed + number in INT64 else INT64.start + number  # beyond the greatest comes the least
    return replace(ask, sampling=replace(ask.sampling, seed=following))


async def _alone(pieces: AsyncIterator[Piece]) -> AsyncIterator[Indexed]:
    async for piece in pieces:
        yield 0, piece


class _Pump:
    """Reads every choice in a task of its own. Each waits until its piece is taken, so that a caller who reads slowly
    gets fewer and longer pieces."""

    def __init__(self, choices: Sequence[AsyncIterator[Piece]]) -> None:
        self._news: asyncio.Queue[Indexed | Exception | None] = asyncio.Queue(maxsize=1)
        self._tasks = [asyncio.create_task(self._read(index, pieces)) for index, pieces in enumerate(choices)]

    async def pieces(self) -> AsyncIterator[Indexed]:
        """Raises what the first choice to fail raises."""
        left = len(self._tasks)
        while left:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                left -= 1
            else:
                yield news

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, index: int, pieces: AsyncIterator[Piece]) -> None:
        try:
            async for piece in pieces:
                await self._news.put((index, piece))
            await self._news.put(None)
        except Exception as failure:  # of any kind: it is raised where the pieces are read
            await self._news.put(failure)
