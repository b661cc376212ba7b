"""The embedder behind the doors: order, cancelling, deadlines, refusals, failures, and what its numbers say."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from headrace_server.config import EngineConfig
from headrace_server.embedding import EmbedAsk
from headrace_server.engine.embed import EmbedEngine
from headrace_server.errors import DeadlineExceeded, Draining, EngineFailed, InvalidRequest, Overloaded
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Priority
from minilm import running
from prometheus_client import CollectorRegistry
from scripted_lane import Letters, ScriptedLane, scripted

PATIENCE = 300  # seconds, on a busy machine
CONFIG = EngineConfig(max_running=4, max_tokens_per_step=16, max_waiting=4)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.002)


async def occupied(engine: EmbedEngine, lane: ScriptedLane) -> "asyncio.Task[object]":
    """A call that holds the only lane until the gate opens."""
    lane.gate.clear()
    first = asyncio.create_task(engine.embed(EmbedAsk(("a",))))
    await until(lambda: engine.load().running == 1)
    return first


async def test_vectors_come_in_the_order_of_the_inputs_whatever_batches_they_were_in() -> None:
    lane = ScriptedLane()
    async with running(scripted(lane), CONFIG, CollectorRegistry()) as engine:
        found = await engine.embed(EmbedAsk(("abc", (7, 8), "z", "bb", "aaaaaaaaaaaa", "cd")))
    assert found.vectors.tolist() == [
        [3, 0, 2, 1],
        [2, 7, 8, 1],
        [1, 25, 25, 1],
        [2, 1, 1, 1],
        [12, 0, 0, 1],
        [2, 2, 3, 1],
    ]
    assert found.vectors.dtype == np.float32
    assert found.tokens == (3, 2, 1, 2, 12, 2)
    assert len(lane.batches) > 1
    assert found.compute == 0.25 * len(lane.batches)
    assert found.queue_wait >= 0


async def test_many_callers_share_batches_and_each_gets_its_own() -> None:
    lanes = ScriptedLane(), ScriptedLane()
    async with running(scripted(*lanes), EngineConfig(max_running=8), CollectorRegistry()) as engine:
        calls = [engine.embed(EmbedAsk(tuple("abc"[: 1 + n % 3]), priority=[*Priority][n % 3])) for n in range(60)]
        found = await asyncio.gather(*calls)
    for n, one in enumerate(found):
        assert one.vectors[:, 1].tolist() == [0, 1, 2][: 1 + n % 3]
    assert sum(map(len, lanes[0].batches)) + sum(map(len, lanes[1].batches)) == 120


async def test_a_cut_vector_is_normalised_after_the_cut() -> None:
    async with running(scripted(ScriptedLane()), CONFIG, CollectorRegistry()) as engine:
        whole = await engine.embed(EmbedAsk(((3, 4),), normalise=True))
        cut = await engine.embed(EmbedAsk(((3, 4),), dimensions=2, normalise=True))
        raw = await engine.embed(EmbedAsk(((3, 4),), dimensions=2))
    assert np.linalg.norm(whole.vectors) == pytest.approx(1)
    assert cut.vectors[0] == pytest.approx([2 / 13**0.5, 3 / 13**0.5])
    assert raw.vectors.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("ask", "field", "words"),
    [
        (EmbedAsk(("ok", "a" * 17)), "input", "number 1 has 17 tokens, and at most 16 fit"),
        (EmbedAsk(((1, 100),)), "input", "number 0 has the token id 100, which is outside 0..99"),
        (EmbedAsk(((),)), "input", "number 0 has no tokens"),
        (EmbedAsk(("a",), dimensions=5), "dimensions", "is 5; this model's vectors have 1 to 4"),
        (EmbedAsk(("a",), dimensions=0), "dimensions", "is 0"),
    ],
    ids=["too long", "a strange token", "nothing", "too many dimensions", "none"],
)
async def test_what_cannot_be_computed_is_refused_by_name(ask: EmbedAsk, field: str, words: str) -> None:
    async with running(scripted(ScriptedLane()), CONFIG, CollectorRegistry()) as engine:
        with pytest.raises(InvalidRequest, match=words) as refused:
            await engine.embed(ask)
    assert refused.value.field == field


async def test_truncate_cuts_texts_and_token_ids() -> None:
    async with running(scripted(ScriptedLane()), CONFIG, CollectorRegistry()) as engine:
        found = await engine.embed(EmbedAsk(("a" * 40, tuple(range(40))), truncate=True))
    assert found.tokens == (16, 16)


async def test_cancelling_frees_the_place_in_the_queue_at_once() -> None:
    lane = ScriptedLane()
    async with running(scripted(lane), CONFIG, CollectorRegistry()) as engine:
        first = await occupied(engine, lane)
        waiting = asyncio.create_task(engine.embed(EmbedAsk(("bb", "cc", "dd"))))
        await until(lambda: engine.load().waiting == 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert engine.load().waiting == 0
        lane.gate.set()
        await first
        await engine.embed(EmbedAsk(("e",)))
    assert lane.batches == [[(0,)], [(4,)]]  # nothing was computed for who had gone


async def test_a_caller_who_leaves_a_batch_that_computes_disturbs_nobody() -> None:
    lane, registry = ScriptedLane(), CollectorRegistry()
    async with running(scripted(lane), CONFIG, registry) as engine:
        first = await occupied(engine, lane)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(engine.embed(EmbedAsk(("b",))))
        lane.gate.set()
        assert (await second).vectors[0, 1] == 1
        await until(lambda: engine.load().running == 0)
    assert registry.get_sample_value("headrace_requests_finished_total", {"outcome": "cancelled"}) == 1


async def test_a_deadline_that_passes_in_the_queue_costs_no_batch() -> None:
    lane, registry = ScriptedLane(), CollectorRegistry()
    async with running(scripted(lane), CONFIG, registry) as engine:
        first = await occupied(engine, lane)
        with pytest.raises(DeadlineExceeded) as late:
            await engine.embed(EmbedAsk(("b",), timeout=0.05))
        lane.gate.set()
        await first
    assert not late.value.started
    assert lane.batches == [[(0,)]]
    assert registry.get_sample_value("headrace_requests_expired_total", {"phase": "queue"}) == 1


async def test_who_finds_the_queue_full_is_told_when_to_come_back() -> None:
    lane, registry = ScriptedLane(), CollectorRegistry()
    async with running(scripted(lane), CONFIG, registry) as engine:
        first = await occupied(engine, lane)
        inside = asyncio.create_task(engine.embed(EmbedAsk(("b", "c", "d", "e"))))
        await until(lambda: engine.load().waiting == 4)
        with pytest.raises(Overloaded) as full:
            await engine.embed(EmbedAsk(("f",)))
        lane.gate.set()
        assert len((await inside).vectors) == 4
        await first
        await engine.embed(EmbedAsk(("f",)))
    assert full.value.retry_after > 0
    assert registry.get_sample_value("headrace_requests_received_total") == 6


async def test_draining_answers_what_is_inside_and_refuses_the_rest() -> None:
    lane = ScriptedLane()
    async with running(scripted(lane), CONFIG, CollectorRegistry()) as engine:
        first = await occupied(engine, lane)
        engine.begin_drain()
        with pytest.raises(Draining):
            await engine.embed(EmbedAsk(("b",)))
        empty = asyncio.create_task(engine.drained())
        await asyncio.sleep(0)
        assert not empty.done()
        lane.gate.set()
        await first
        async with asyncio.timeout(PATIENCE):
            await empty


async def test_a_batch_that_breaks_ends_every_call_and_the_engine() -> None:
    lane, registry = ScriptedLane(), CollectorRegistry()
    engine = EmbedEngine(scripted(lane), CONFIG, ServerMetrics(registry))
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0)
    first = await occupied(engine, lane)
    second = asyncio.create_task(engine.embed(EmbedAsk(("b",))))
    await until(lambda: engine.load().waiting == 1)
    lane.fault = MemoryError("no more")
    lane.gate.set()
    for one in (first, second, task):
        with pytest.raises(EngineFailed, match="MemoryError: no more"):
            await one
    with pytest.raises(EngineFailed):
        await engine.embed(EmbedAsk(("c",)))
    assert registry.get_sample_value("headrace_engine_failures_total", {"kind": "out_of_memory"}) == 1


async def test_tokenising_is_not_the_event_loops_work() -> None:
    letters = Letters()
    model = replace(scripted(ScriptedLane()), tokeniser=letters)
    async with running(model, CONFIG, CollectorRegistry()) as engine:
        await engine.embed(EmbedAsk(("abc",)))
    assert all(name.startswith("tokenise") for name in letters.threads)


async def test_a_full_batch_is_launched_behind_the_one_that_computes_and_another_is_not() -> None:
    lane = ScriptedLane()
    config = replace(CONFIG, max_waiting=100)
    async with running(scripted(lane), config, CollectorRegistry()) as engine:
        lane.gate.clear()
        calls = [asyncio.create_task(engine.embed(EmbedAsk(("a" * 8, "b" * 8, "c" * 8, "d" * 8, "e"))))]
        await until(lambda: len(lane.batches) == 2)
        assert [len(batch) for batch in lane.batches] == [2, 2]
        assert engine.load().waiting == 1  # it waits for others, or for the lane
        lane.gate.set()
        await asyncio.gather(*calls)
    assert [len(batch) for batch in lane.batches] == [2, 2, 1]


async def test_the_numbers_are_those_of_what_was_computed() -> None:
    lanes, registry = (ScriptedLane(padded=3), ScriptedLane(padded=3)), CollectorRegistry()
    async with running(scripted(*lanes), CONFIG, registry) as engine:
        await engine.embed(EmbedAsk(("abc", "de"), priority=Priority.INTERACTIVE))
        await engine.embed(EmbedAsk(("f",), priority=Priority.BATCH))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"headrace_{name}", labels)

    assert value("requests_received_total") == value("requests_finished_total", outcome="stop") == 3
    assert value("finished_request_tokens_total") == value("prompt_tokens_total") == 6
    assert value("step_tokens_total", **{"class": "interactive"}) == 5
    assert value("step_tokens_total", **{"class": "batch"}) == 1
    assert value("queue_wait_seconds_count", **{"class": "interactive", "tenant_class": "default"}) == 2
    assert value("requests_received_by_class_total", **{"class": "interactive"}) == 2
    assert value("requests_finished_by_class_total", **{"class": "batch"}) == 1
    assert value("finished_request_tokens_by_class_total", **{"class": "interactive"}) == 5
    assert value("max_running") == 2 * CONFIG.max_running
    assert value("requests_waiting") == value("requests_running") == 0
    assert value("padded_tokens_total") == 3 * sum(len(lane.batches) for lane in lanes)
    assert (value("device_busy_seconds_total") or 0) > 0
    assert (value("fetch_seconds_total") or 0) > 0
