"""Whole answers, word for word, to requests that are equal in everything that could change the answer.

Only what would come out the same again is kept: greedy answers, and those with a seed. An answer is kept when its last
piece is there, so a caller who hangs up leaves nothing behind that is cut off.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from headrace_server.config import CacheConfig
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish
from headrace_server.rpc.answers import Compute, Piece, Usage, joined
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.caches.flights import Flight, Flights, in_time
from headrace_server.rpc.caches.key import key_of
from headrace_server.rpc.caches.note import Lookup, note
from headrace_server.rpc.caches.values import Values

NAME = "response"  # label `cache`
TOGETHER = 32  # tokens in a piece of a kept answer, and at most in one that is passed on late
PIECE, SCORE = 400, 200  # bytes of Python's objects, about
COMPLETE = {Finish.STOP, Finish.LENGTH}


class _Answer(Flight):
    """An answer while it is computed."""

    def __init__(self, deadline: float | None) -> None:
        super().__init__(deadline)
        self.pieces: list[Piece] = []
        self.failure: Exception | None = None
        self.begun = asyncio.Event()  # admitted, or refused
        self._is_over = False
        self._news = asyncio.Event()

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._tell()

    def end(self, failure: Exception | None) -> None:
        self.failure, self._is_over = failure, True
        self.begun.set()
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(self, until: float | None) -> AsyncIterator[Piece]:
        """From the first piece on, whenever it is joined. `until` on the event loop's clock; None: no matter when.

        Raises what the computation raised, DeadlineExceeded.
        """
        read = 0
        while True:
            if read < len(self.pieces):
                fresh, read = self.pieces[read:], len(self.pieces)
                for piece in grouped(fresh):
                    yield piece
            elif self._is_over:
                break
            else:
                await in_time(self._news.wait(), until, started=bool(self.pieces))
        if self.failure is not None:
            raise self.failure


class ResponseCache:
    def __init__(self, most: int, config: CacheConfig, metrics: ServerMetrics, clock: Callable[[], float]) -> None:
        """`most`: bytes of all answers together; `clock` in seconds, and it never goes back."""
        self._sampled_too = config.sampled
        self._clock = clock
        self._kept: Values[tuple[Piece, ...]] = Values(most, config.ttl)
        self._flights: Flights[_Answer] = Flights()
        self._lookups = {each: metrics.cache_lookups.labels(NAME, each) for each in Lookup}
        self._evictions = metrics.cache_evictions.labels(NAME)
        metrics.cache_bytes.labels(NAME).set_function(lambda: self._kept.size)
        metrics.cache_entries.labels(NAME).set_function(lambda: len(self._kept))

    @asynccontextmanager
    async def open(self, ask: Ask, compute: Compute) -> AsyncIterator[AsyncIterator[Piece]]:
        """As Answers.open, which gives `compute`."""
        if not self._may_keep(ask):
            self._found(Lookup.BYPASS)
            async with compute(ask) as pieces:
                yield pieces
            return
        key = key_of(ask)
        if (known := self._kept.get(key, self._clock())) is not None:
            self._found(Lookup.HIT)
            yield _replayed(known)
            return
        now = asyncio.get_running_loop().time()
        until = None if ask.timeout is None else now + ask.timeout
        # Equal requests of another urgency wait elsewhere in the queue.
        place = key + ask.priority.encode()
        flight = self._flights.under_way(place, ask.timeout, now)
        self._found(Lookup.MISS if flight is None else Lookup.SHARED)
        if flight is None:
            flight = _Answer(until)
            self._flights.begin((place,), flight, self._compute(key, ask, compute, flight))
        async with flight.joined():
            await in_time(flight.begun.wait(), until, started=False)
            if flight.failure is not None and not flight.pieces:
                raise flight.failure
            yield flight.read(until)

    def _may_keep(self, ask: Ask) -> bool:
        is_same_again = ask.sampling.temperature == 0 or ask.sampling.seed is not None
        return is_same_again or self._sampled_too

    def _found(self, lookup: Lookup) -> None:
        self._lookups[lookup].inc()
        note(lookup)

    async def _compute(self, key: bytes, ask: Ask, compute: Compute, answer: _Answer) -> None:
        try:
            async with compute(ask) as pieces:
                answer.begun.set()
                async for piece in pieces:
                    answer.add(piece)
        except Exception as failure:  # of any kind: raised where the answer is read
            answer.end(failure)
            return
        answer.end(None)
        if answer.pieces and answer.pieces[-1].finish in COMPLETE:
            kept = tuple(grouped(answer.pieces))
            self._evictions.inc(self._kept.put(key, kept, sum(map(size_of, kept)), self._clock()))


async def _replayed(kept: Sequence[Piece]) -> AsyncIterator[Piece]:
    for piece in kept:
        if piece.usage is None:
            yield piece
        else:  # nothing was waited for, and nothing of the prompt was computed
            usage = piece.usage
            yield replace(
                piece, usage=Usage(usage.prompt_tokens, usage.generated_tokens, 0.0, 0.0, 0.0, usage.prompt_tokens)
            )


def grouped(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """In fewer pieces, none too large for a message. Scores of a prompt stay as they are: they are many already."""
    together: list[Piece] = []
    for piece in pieces:
        if together and (piece.prompt_scores or sum(len(one.token_ids) for one in together) >= TOGETHER):
            yield joined(together)
            together = []
        if piece.prompt_scores:
            yield piece
        else:
            together.append(piece)
    if together:
        yield joined(together)


def size_of(piece: Piece) -> int:
    """Bytes, about."""
    scores = (*piece.scores, *piece.prompt_scores)
    return PIECE + 4 * len(piece.text) + 40 * len(piece.token_ids) + SCORE * sum(1 + len(each.top) for each in scores)
