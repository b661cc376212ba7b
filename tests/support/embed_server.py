"""Both doors of a server on loopback, in this process, in front of an embedder without a model."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from headrace_server.embedding import EmbedAsk, Embedded, EmbedderFacts, Pooling
from headrace_server.errors import InvalidRequest
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.doors import Doors, open_doors
from numpy.typing import NDArray
from open_server import HOST, a_config
from prometheus_client import CollectorRegistry

FACTS = EmbedderFacts(dimensions=384, max_tokens=32, pooling=Pooling.MEAN, normalises=True)


def vector_of(one: str | tuple[int, ...], dimensions: int = FACTS.dimensions) -> NDArray[np.float32]:
    """Always the same for the same input, another for another, and of length 1."""
    seed = int.from_bytes(hashlib.sha256(repr(one).encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


@dataclass
class FixedEmbedder:
    """A token for each character or id; keeps what it was asked."""

    asked: list[EmbedAsk] = field(default_factory=list)
    failure: Exception | None = None
    cancelled: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def facts(self) -> EmbedderFacts:
        return FACTS

    async def embed(self, ask: EmbedAsk) -> Embedded:
        self.asked.append(ask)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        if not ask.truncate and max(map(len, ask.inputs)) > FACTS.max_tokens:
            raise InvalidRequest("input", f"has more than {FACTS.max_tokens} tokens")
        vectors = np.stack([vector_of(one)[: ask.dimensions] for one in ask.inputs])
        return Embedded(vectors, tuple(min(len(one), FACTS.max_tokens) for one in ask.inputs), 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class EmbedServer:
    doors: Doors
    embedder: FixedEmbedder
    registry: CollectorRegistry

    @property
    def http(self) -> str:
        return f"http://{HOST}:{self.doors.http_port}"

    @property
    def grpc(self) -> str:
        return f"{HOST}:{self.doors.grpc_port}"


@asynccontextmanager
async def embed_server(model: Path, *, ready: bool = True) -> AsyncIterator[EmbedServer]:
    registry, embedder = CollectorRegistry(), FixedEmbedder()
    doors = await open_doors(a_config(model, max_connection_age=30.0), ServerMetrics(registry), registry)
    if ready:
        doors.readiness.open(None, embedder)
    try:
        yield EmbedServer(doors, embedder, registry)
    finally:
        embedder.gate.set()
        await doors.close()
