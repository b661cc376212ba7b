"""A model that gives its KV cache's memory back, and answers as before when it is awake again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoints import Checkpoint, write_checkpoint
from engines import LIMITS, answer_of, until
from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine
from headrace_server.errors import Draining, NotNow
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import load_model
from headrace_server.model.runner import ModelRunner
from headrace_server.request import Request
from models import a_config
from paused import Pause
from prometheus_client import CollectorRegistry
from runners import CountingRunner

PROMPT = tuple(range(3, 40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@dataclass(frozen=True, slots=True)
class Asked:
    engine: Engine
    runner: ModelRunner
    registry: CollectorRegistry

    pause: Pause

    async def answer(self, new_tokens: int = 12) -> list[int | None]:
        tokens = await answer_of(self.engine, Request("one", PROMPT, new_tokens, 0.0))
        return [token.id for token in tokens]

    @property
    def cache_bytes(self) -> int:
        cache = self.runner._cache
        return int(cache.keys.untyped_storage().nbytes() + cache.values.untyped_storage().nbytes())

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"headrace_{name}")


@asynccontextmanager
async def an_engine(directory: Path, overlap: bool = True, *, pauses: bool = False) -> AsyncIterator[Asked]:
    config = EngineConfig(page_size=8, overlap=overlap)
    loaded = load_model(a_config(directory, engine=config), on_phase=lambda phase: None)
    registry = CollectorRegistry()
    pause = Pause(loaded.runner, steps=20)
    if not pauses:
        pause.gate.set()
    engine = Engine(loaded.runner, config, loaded.limits, ServerMetrics(registry))
    heartbeat = asyncio.create_task(engine.run())
    try:
        yield Asked(engine, loaded.runner, registry, pause)
    finally:
        pause.gate.set()
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


@pytest.mark.parametrize("overlap", [True, False])
async def test_asleep_it_holds_no_cache_and_awake_it_answers_as_before(checkpoint: Checkpoint, overlap: bool) -> None:
    async with an_engine(checkpoint.directory, overlap) as asked:
        before, held = await asked.answer(), asked.cache_bytes
        assert asked.metric("kv_pages_cached")
        await asked.engine.sleep()
        assert (asked.cache_bytes, asked.engine.asleep) == (0, True)
        assert asked.metric("kv_pages_cached") == 0
        assert asked.metric("kv_pages_free") == asked.metric("kv_pages_total")
        with pytest.raises(Draining, match="sleeps"):
            await asked.answer()
        await asked.engine.sleep()  # is asleep
        await asked.engine.wake_up()
        assert asked.cache_bytes == held
        hits = asked.metric("prefix_cache_hits_total")
        assert await asked.answer() == before
        assert asked.metric("prefix_cache_hits_total") == hits  # nothing was found that is not there any more
        await asked.engine.wake_up()  # is awake
        assert await asked.answer() == before


async def test_what_runs_comes_to_its_end_before(checkpoint: Checkpoint) -> None:
    async with an_engine(checkpoint.directory, pauses=True) as asked:
        answer = asyncio.create_task(asked.answer(new_tokens=60))
        await until(lambda: asked.engine.load().running > 0)
        sleep = asyncio.create_task(asked.engine.sleep())
        await until(lambda: asked.engine.asleep)
        with pytest.raises(Draining):
            await asked.answer()
        asked.pause.gate.set()
        assert len(await answer) == 60
        await sleep
        assert asked.cache_bytes == 0


async def test_who_gives_up_waiting_for_sleep_leaves_it_awake(checkpoint: Checkpoint) -> None:
    async with an_engine(checkpoint.directory, pauses=True) as asked:
        answer = asyncio.create_task(asked.answer(new_tokens=100))
        await until(lambda: asked.engine.load().running > 0)
        sleep = asyncio.create_task(asked.engine.sleep())
        await until(lambda: asked.engine.asleep)
        sleep.cancel()
        await asyncio.gather(sleep, return_exceptions=True)
        assert not asked.engine.asleep
        asked.pause.gate.set()
        assert len(await asked.answer()) == 12
        await answer


async def test_without_memory_to_wake_up_with_it_sleeps_on(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_engine(checkpoint.directory) as asked:
        await asked.engine.sleep()
        with monkeypatch.context() as taken:

            def no_memory() -> None:
                raise MemoryError("256 MiB")

            taken.setattr(asked.runner, "wake_up", no_memory)
            with pytest.raises(NotNow, match="256 MiB"):
                await asked.engine.wake_up()
        assert asked.engine.asleep
        await asked.engine.wake_up()
        assert len(await asked.answer()) == 12


async def test_a_runner_without_a_cache_cannot_sleep() -> None:
    engine = Engine(CountingRunner(), EngineConfig(), LIMITS, ServerMetrics(CollectorRegistry()))
    with pytest.raises(NotNow, match="no KV cache"):
        await engine.sleep()
    assert not engine.asleep
