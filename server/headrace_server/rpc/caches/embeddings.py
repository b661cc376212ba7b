"""The vector of each text, by itself: of several texts only those are computed that nobody has asked for before."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace_server.config import CacheConfig
from headrace_server.embedding import EmbedAsk, Embedded, Embedder, EmbedderFacts, Input
from headrace_server.errors import InvalidRequest
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.caches.flights import Flight, Flights, in_time
from headrace_server.rpc.caches.key import input_key
from headrace_server.rpc.caches.note import Lookup, note
from headrace_server.rpc.caches.values import Values

NAME = "embedding"  # label `cache`
ROW = 300  # bytes of Python's objects, about


@dataclass(frozen=True, slots=True)
class _Row:
    vector: NDArray[np.float32]  # (dimensions,), its own copy: a view would keep the whole batch
    tokens: int


class _Texts(Flight):
    """Texts while they are computed together."""

    def __init__(self, deadline: float | None) -> None:
        super().__init__(deadline)
        self.over = asyncio.Event()
        self.rows: Mapping[bytes, _Row] = {}
        self.queue_wait = self.compute = 0.0  # seconds
        self.failure: Exception | None = None


class CachedEmbedder:
    """An Embedder in front of another."""

    def __init__(
        self, inner: Embedder, most: int, config: CacheConfig, metrics: ServerMetrics, clock: Callable[[], float]
    ) -> None:
        """`most`: bytes of all vectors together; `clock` in seconds, and it never goes back."""
        self._inner = inner
        self._clock = clock
        self._kept: Values[_Row] = Values(most, config.ttl)
        self._flights: Flights[_Texts] = Flights()
        self._lookups = {each: metrics.cache_lookups.labels(NAME, each) for each in Lookup}
        self._evictions = metrics.cache_evictions.labels(NAME)
        metrics.cache_bytes.labels(NAME).set_function(lambda: self._kept.size)
        metrics.cache_entries.labels(NAME).set_function(lambda: len(self._kept))

    @property
    def facts(self) -> EmbedderFacts:
        return self._inner.facts

    async def embed(self, ask: EmbedAsk) -> Embedded:
        keys = [input_key(ask, one) for one in ask.inputs]
        try:
            return await self._embed(ask, keys)
        except InvalidRequest:
            # A refusal names the text by its place among those that were computed together; only all of them, in their
            # own order, give the place that this caller knows. Nor is another's refusal this caller's.
            return await self._inner.embed(ask)

    async def _embed(self, ask: EmbedAsk, keys: Sequence[bytes]) -> Embedded:
        now = asyncio.get_running_loop().time()
        until = None if ask.timeout is None else now + ask.timeout
        rows, flights, missing = self._look_up(ask, keys, now)
        async with AsyncExitStack() as stack:
            if missing:
                own = _Texts(until)
                self._flights.begin(tuple(missing), own, self._compute(ask, missing, own))
                flights.append(own)
            for flight in flights:
                await stack.enter_async_context(flight.joined())
            for flight in flights:
                await in_time(flight.over.wait(), until, started=False)
                if flight.failure is not None:
                    raise flight.failure
                rows |= flight.rows
        return Embedded(
            vectors=np.stack([rows[key].vector for key in keys]),
            tokens=tuple(rows[key].tokens for key in keys),
            queue_wait=max((flight.queue_wait for flight in flights), default=0.0),
            compute=max((flight.compute for flight in flights), default=0.0),
        )

    def _look_up(
        self, ask: EmbedAsk, keys: Sequence[bytes], now: float
    ) -> tuple[dict[bytes, _Row], list[_Texts], dict[bytes, Input]]:
        """What is known, what is being computed, and what nobody has."""
        rows: dict[bytes, _Row] = {}
        flights: list[_Texts] = []
        missing: dict[bytes, Input] = {}
        for key, one in dict(zip(keys, ask.inputs, strict=True)).items():
            if (row := self._kept.get(key, self._clock())) is not None:
                self._found(Lookup.HIT)
                rows[key] = row
            elif (flight := self._flights.under_way(key, ask.timeout, now)) is not None:
                self._found(Lookup.SHARED)
                if flight not in flights:
                    flights.append(flight)
            else:
                self._found(Lookup.MISS)
                missing[key] = one
        return rows, flights, missing

    def _found(self, lookup: Lookup) -> None:
        self._lookups[lookup].inc()
        note(lookup)

    async def _compute(self, ask: EmbedAsk, missing: Mapping[bytes, Input], texts: _Texts) -> None:
        try:
            found = await self._inner.embed(replace(ask, inputs=tuple(missing.values())))
        except Exception as failure:  # of any kind: raised where the vectors are awaited
            texts.failure = failure
            texts.over.set()
            return
        vectors = (np.array(vector, dtype=np.float32) for vector in found.vectors)
        texts.rows = dict(zip(missing, map(_Row, vectors, found.tokens), strict=True))
        texts.queue_wait, texts.compute = found.queue_wait, found.compute
        texts.over.set()
        for key, row in texts.rows.items():
            self._evictions.inc(self._kept.put(key, row, row.vector.nbytes + ROW, self._clock()))
