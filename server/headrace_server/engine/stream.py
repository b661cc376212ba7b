"""One request's answer on its way to the caller."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from types import TracebackType

from headrace_server.errors import ServerError
from headrace_server.request import Finish, Token


@dataclass(slots=True)
class Times:
    """When tokens of one request came, seconds on the engine's clock; written by the engine."""

    began: float | None = None  # the first step that included it; None until its token is here
    first: float | None = None
    last: float | None = None

    def token(self, now: float, began: float) -> float | None:
        """When the one before came; None for the first."""
        before, self.last = self.last, now
        if before is None:
            self.began, self.first = began, now
        return before


class Stream(AsyncGenerator[Token, None]):
    """The tokens of one request. Closing it, or being cancelled while waiting in it, cancels the request.

    A class and not a generator function: a generator that is closed before its first token never runs its `finally`,
    and the request of a caller who hangs up early would compute to its end.
    """

    def __init__(self, end: Callable[[Finish], None], at_once: int = 1) -> None:
        """`at_once`: tokens that are held back until there are so many, or nothing follows."""
        self._end = end
        self._at_once = at_once
        self._held: list[Token | ServerError] = []
        self._news: asyncio.Queue[Token | ServerError] = asyncio.Queue()
        self._closed = False
        self.times = Times()

    def put(self, news: Token | ServerError) -> None:
        """Called by the engine. Nothing follows a Token with `finish`, or an error."""
        self._held.append(news)
        if len(self._held) >= self._at_once or isinstance(news, ServerError) or news.finish is not None:
            for one in self._held:
                self._news.put_nowait(one)
            self._held.clear()

    def stop(self) -> None:
        """Ends the request as answered: the caller has seen a stop string, which only text can show."""
        self._close(Finish.STOP)

    async def asend(self, value: None) -> Token:
        if self._closed:
            raise StopAsyncIteration
        try:
            news = await self._news.get()
        except BaseException:
            self._close()
            raise
        return self._open(news)

    def arrived(self) -> Token | None:
        """The next token if it is here already: a caller who lags takes several at once. Raises what ended them."""
        return None if self._closed or self._news.empty() else self._open(self._news.get_nowait())

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Token:
        self._close()
        raise typ  # aclose() of the base class throws GeneratorExit and swallows it

    def _open(self, news: Token | ServerError) -> Token:
        if isinstance(news, ServerError):
            self._closed = True
            raise news
        self._closed = news.finish is not None
        return news

    def _close(self, finish: Finish = Finish.CANCELLED) -> None:
        if not self._closed:
            self._closed = True
            self._end(finish)
