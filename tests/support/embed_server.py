"""Both doors of a server on loopback, in this process, in front of an embedder or a cross-encoder without a model."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from headrace_server.config import BatchConfig
from headrace_server.embedding import EmbedAsk, Embedded, EmbedderFacts, Input, Judges, Pair, Pooling
from headrace_server.errors import InvalidRequest
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.batches.runner import OfflineRunner
from headrace_server.rpc.doors import Doors, open_doors
from headrace_server.rpc.text_tokens import EmbedderTokens
from numpy.typing import NDArray
from open_server import NAME, AtDoors, a_config
from prometheus_client import CollectorRegistry

FACTS = EmbedderFacts(dimensions=384, max_tokens=32, pooling=Pooling.MEAN, normalises=True)
CROSS = replace(FACTS, dimensions=1, pooling=Pooling.CLS, judges=Judges.TOGETHER, bounds_scores=True)


def vector_of(one: str | tuple[int, ...], dimensions: int = FACTS.dimensions) -> NDArray[np.float32]:
    """Always the same for the same input, another for another, and of length 1."""
    seed = int.from_bytes(hashlib.sha256(repr(one).encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


def logit_of(pair: Pair) -> float:
    """Of words that both have: 1 each, less 2."""
    return float(len(set(pair.first.split()) & set(pair.second.split())) - 2)


def length_of(one: Input) -> int:
    """Tokens: a character or an id each."""
    return len(one.first) + len(one.second) if isinstance(one, Pair) else len(one)


@dataclass(frozen=True, slots=True)
class Characters:
    """A token for each character, and two special ones around a text."""

    vocab_size: int = 1000

    def encode_alone(self, text: str) -> list[int]:
        return [1, *self.encode_plainly(text), 2]

    def encode_plainly(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def names(self, token_ids: Sequence[int]) -> list[str]:
        return [chr(token_id) for token_id in token_ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(token_id) for token_id in token_ids if token_id > 2)


@dataclass
class FixedEmbedder:
    """A token for each character or id; keeps what it was asked."""

    facts: EmbedderFacts = FACTS
    asked: list[EmbedAsk] = field(default_factory=list)
    failure: Exception | None = None
    cancelled: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def embed(self, ask: EmbedAsk) -> Embedded:
        self.asked.append(ask)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        lengths = [*map(length_of, ask.inputs)]
        if not ask.truncate and max(lengths) > FACTS.max_tokens:
            place = next(place for place, length in enumerate(lengths) if length > FACTS.max_tokens)
            raise InvalidRequest("input", f"has more than {FACTS.max_tokens} tokens", place=place)
        vectors = np.stack([self._vector(one, ask) for one in ask.inputs])
        return Embedded(vectors, tuple(min(length, FACTS.max_tokens) for length in lengths), 0.0, 0.0)

    def _vector(self, one: Input, ask: EmbedAsk) -> NDArray[np.float32]:
        assert isinstance(one, Pair) == (self.facts.judges is Judges.TOGETHER)
        return np.array([logit_of(one)], np.float32) if isinstance(one, Pair) else vector_of(one)[: ask.dimensions]


@dataclass(frozen=True, slots=True)
class EmbedServer(AtDoors):
    embedder: FixedEmbedder
    registry: CollectorRegistry


@asynccontextmanager
async def embed_server(
    model: Path, *, ready: bool = True, facts: EmbedderFacts = FACTS, batches: BatchConfig | None = None
) -> AsyncIterator[EmbedServer]:
    registry, embedder = CollectorRegistry(), FixedEmbedder(facts)
    metrics = ServerMetrics(registry)
    doors = await open_doors(a_config(model, 30.0, batches), metrics, registry)
    if ready:
        tokens = EmbedderTokens(Characters(), facts.max_tokens, {"cls_token": "[CLS]"})
        doors.readiness.open(None, embedder, tokens)
    offline = asyncio.create_task(_offline(doors, metrics))
    try:
        yield EmbedServer(doors, embedder, registry)
    finally:
        embedder.gate.set()
        offline.cancel()
        await asyncio.gather(offline, return_exceptions=True)
        await doors.close()


async def _offline(doors: Doors, metrics: ServerMetrics) -> None:
    if doors.store is not None:
        now = time.time  # noqa: TID251
        await OfflineRunner(doors.store, doors.readiness, metrics, model=NAME, concurrency=4, wall_clock=now).run()
