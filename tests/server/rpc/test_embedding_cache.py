"""Vectors that are kept, text by text: computed once for a tenant, never handed to another, never cut short."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from embed_server import CROSS, FACTS, FixedEmbedder, logit_of, vector_of
from headrace_server.config import CacheConfig
from headrace_server.embedding import EmbedAsk, Input, Pair
from headrace_server.errors import DeadlineExceeded, InvalidRequest, Overloaded
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.caches.embeddings import CachedEmbedder
from prometheus_client import CollectorRegistry

ROOM = 2**20
OURS = EmbedAsk(("a", "b"), tenant="team-a")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def inner() -> FixedEmbedder:
    return FixedEmbedder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def cached(inner: FixedEmbedder, clock: Clock, registry: CollectorRegistry) -> CachedEmbedder:
    return CachedEmbedder(inner, ROOM, CacheConfig(ttl=10.0), ServerMetrics(registry), clock)


def lookups(registry: CollectorRegistry, outcome: str) -> float:
    labels = {"cache": "embedding", "outcome": outcome}
    return registry.get_sample_value("headrace_cache_lookups_total", labels) or 0.0


def inputs(inner: FixedEmbedder) -> list[tuple[Input, ...]]:
    return [ask.inputs for ask in inner.asked]


async def test_a_cross_encoders_scores_are_kept_pair_by_pair(clock: Clock, registry: CollectorRegistry) -> None:
    inner = FixedEmbedder(CROSS)
    cached = CachedEmbedder(inner, ROOM, CacheConfig(ttl=10.0), ServerMetrics(registry), clock)
    one, other, turned = Pair("a b", "a"), Pair("a b", "c"), Pair("a", "a b")
    await cached.embed(EmbedAsk((one,), tenant="team-a"))
    found = await cached.embed(EmbedAsk((other, one, turned), tenant="team-a"))
    await cached.embed(EmbedAsk((one,), tenant="team-b"))
    assert [ask.inputs for ask in inner.asked] == [(one,), (other, turned), (one,)]
    assert found.vectors[:, 0].tolist() == [logit_of(pair) for pair in (other, one, turned)]


async def test_only_texts_that_nobody_asked_for_are_computed(
    cached: CachedEmbedder, inner: FixedEmbedder, registry: CollectorRegistry
) -> None:
    await cached.embed(OURS)
    found = await cached.embed(replace(OURS, inputs=("b", "c", "a", "c")))
    assert inputs(inner) == [("a", "b"), ("c",)]
    assert np.array_equal(found.vectors, np.stack([vector_of(one) for one in ("b", "c", "a", "c")]))
    assert found.tokens == (1, 1, 1, 1)
    assert (lookups(registry, "hit"), lookups(registry, "miss")) == (2, 3)
    assert registry.get_sample_value("headrace_cache_entries", {"cache": "embedding"}) == 3


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(replace(OURS, tenant="team-b"), id="another tenant"),
        pytest.param(replace(OURS, cache_scope="bob"), id="a part of the tenant"),
        pytest.param(replace(OURS, dimensions=8), id="other dimensions"),
        pytest.param(replace(OURS, normalise=False), id="not normalised"),
    ],
)
async def test_nothing_is_shared_beyond_a_tenant_and_its_settings(
    cached: CachedEmbedder, inner: FixedEmbedder, theirs: EmbedAsk
) -> None:
    await cached.embed(OURS)
    found = await cached.embed(theirs)
    assert inputs(inner) == [("a", "b")] * 2
    assert inner.asked[1].tenant == theirs.tenant
    assert found.vectors.shape == (2, theirs.dimensions or FACTS.dimensions)


async def test_a_vector_is_kept_for_its_time(cached: CachedEmbedder, inner: FixedEmbedder, clock: Clock) -> None:
    await cached.embed(OURS)
    clock.now = 9.9
    await cached.embed(OURS)
    clock.now = 10.0
    await cached.embed(OURS)
    assert len(inner.asked) == 2


async def test_equal_texts_at_once_are_computed_once_and_whoever_leaves_takes_nothing_along(
    cached: CachedEmbedder, inner: FixedEmbedder
) -> None:
    inner.gate.clear()
    first = asyncio.create_task(cached.embed(OURS))
    await asyncio.sleep(0)
    second = asyncio.create_task(cached.embed(replace(OURS, inputs=("b", "c"))))
    while len(inner.asked) < 2:
        await asyncio.sleep(0)
    assert inputs(inner) == [("a", "b"), ("c",)]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    inner.gate.set()
    assert np.array_equal((await second).vectors[0], vector_of("b"))
    assert inner.cancelled == 0


async def test_what_nobody_waits_for_is_cancelled_and_not_kept(cached: CachedEmbedder, inner: FixedEmbedder) -> None:
    inner.gate.clear()
    only = asyncio.create_task(cached.embed(OURS))
    while not inner.asked:
        await asyncio.sleep(0)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    assert inner.cancelled == 1
    inner.gate.set()
    await cached.embed(OURS)
    assert len(inner.asked) == 2


async def test_cancelled_before_it_began_leaves_nothing_to_wait_for(
    cached: CachedEmbedder, inner: FixedEmbedder
) -> None:
    only = asyncio.create_task(cached.embed(OURS))
    await asyncio.sleep(0)  # its computation is a task that has not run yet
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    assert (await cached.embed(OURS)).tokens == (1, 1)


async def test_a_bad_text_fails_its_own_request_as_without_the_cache_and_no_other(
    cached: CachedEmbedder, inner: FixedEmbedder
) -> None:
    await cached.embed(OURS)
    inner.gate.clear()
    bad = asyncio.create_task(cached.embed(replace(OURS, inputs=("a", "good", "x" * 99))))
    while len(inner.asked) < 2:
        await asyncio.sleep(0)
    good = asyncio.create_task(cached.embed(replace(OURS, inputs=("good",))))
    await asyncio.sleep(0)
    inner.gate.set()
    with pytest.raises(InvalidRequest):
        await bad
    assert inner.asked[-1].inputs in {("a", "good", "x" * 99), ("good",)}
    assert ("a", "good", "x" * 99) in inputs(inner)  # as a whole, so that a place in the message is the caller's
    assert np.array_equal((await good).vectors[0], vector_of("good"))


async def test_an_overload_is_told_and_not_kept(cached: CachedEmbedder, inner: FixedEmbedder) -> None:
    inner.failure = Overloaded("full", 1.0)
    with pytest.raises(Overloaded):
        await cached.embed(OURS)
    inner.failure = None
    assert (await cached.embed(OURS)).tokens == (1, 1)


async def test_a_deadline_is_its_callers_own(cached: CachedEmbedder, inner: FixedEmbedder) -> None:
    inner.gate.clear()
    patient = asyncio.create_task(cached.embed(OURS))
    while not inner.asked:
        await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await cached.embed(replace(OURS, timeout=0.01))
    inner.gate.set()
    assert (await patient).tokens == (1, 1)
    assert len(inner.asked) == 1


async def test_the_bound_holds(inner: FixedEmbedder, clock: Clock, registry: CollectorRegistry) -> None:
    room = 3 * (FACTS.dimensions * 4 + 300)
    cached = CachedEmbedder(inner, room, CacheConfig(), ServerMetrics(registry), clock)
    for number in range(5):
        await cached.embed(replace(OURS, inputs=(str(number),)))
    assert registry.get_sample_value("headrace_cache_bytes", {"cache": "embedding"}) == room
    assert registry.get_sample_value("headrace_cache_evictions_total", {"cache": "embedding"}) == 2
