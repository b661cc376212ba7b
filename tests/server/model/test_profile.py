"""A profile of some steps of a real model, by torch's own profiler."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from checkpoints import Checkpoint, write_checkpoint
from engines import answer_of, until
from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine
from headrace_server.errors import NotNow
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import load_model
from headrace_server.request import Request
from models import a_config
from paused import Pause
from prometheus_client import CollectorRegistry

STEPS = 5
BEFORE_PAUSE = 20  # steps
PATIENCE = 300.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@asynccontextmanager
async def an_engine(directory: Path, overlap: bool = True) -> AsyncIterator[Engine]:
    async with a_pausing_engine(directory, overlap) as (engine, pause):
        pause.gate.set()
        yield engine


@asynccontextmanager
async def a_pausing_engine(directory: Path, overlap: bool = True) -> AsyncIterator[tuple[Engine, Pause]]:
    config = EngineConfig(page_size=8, overlap=overlap)
    loaded = load_model(a_config(directory, engine=config), on_phase=lambda phase: None)
    pause = Pause(loaded.runner, BEFORE_PAUSE)
    engine = Engine(loaded.runner, config, loaded.limits, ServerMetrics(CollectorRegistry()))
    heartbeat = asyncio.create_task(engine.run())
    try:
        yield engine, pause
    finally:
        pause.gate.set()
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


def asked(engine: Engine, new_tokens: int) -> "asyncio.Task[object]":
    return asyncio.create_task(answer_of(engine, Request("one", tuple(range(3, 20)), new_tokens, 0.0)))


def ranges(trace: Path) -> Counter[str]:
    events = json.loads(trace.read_text())["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


@pytest.mark.parametrize("overlap", [True, False])
async def test_the_trace_holds_the_steps_and_their_parts(checkpoint: Checkpoint, tmp_path: Path, overlap: bool) -> None:
    async with a_pausing_engine(checkpoint.directory, overlap=overlap) as (engine, pause):
        answer = asked(engine, new_tokens=60)
        assert await engine.profile(STEPS, tmp_path / "trace.json", patience=PATIENCE) == STEPS
        assert not answer.done()  # a profile waits for nobody
        pause.gate.set()
        await answer
    found = ranges(tmp_path / "trace.json")
    assert found["launch"] - STEPS in (0, 1)  # with overlap one more is launched before the last is committed
    assert found["wait"] >= STEPS
    assert found["commit"] >= STEPS
    assert found["plan"] >= STEPS - 1
    assert found["forward"] >= STEPS - 1
    assert found["sample"] >= STEPS - 1
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert "aten::linear" in names or "aten::mm" in names  # what the device's own thread computed


async def test_there_is_one_profile_at_a_time(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with an_engine(checkpoint.directory) as engine:
        first = asyncio.create_task(engine.profile(STEPS, tmp_path / "first.json", patience=PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(NotNow, match="another profile"):
            await engine.profile(STEPS, tmp_path / "second.json", patience=PATIENCE)
        await asked(engine, new_tokens=20)
        assert await first == STEPS
    assert [path.name for path in tmp_path.iterdir()] == ["first.json"]


async def test_an_idle_engine_gives_no_profile_and_writes_no_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with an_engine(checkpoint.directory) as engine:
        assert await engine.profile(STEPS, tmp_path / "trace.json", patience=0.05) == 0
        await asked(engine, new_tokens=3)  # and computes on
        assert not list(tmp_path.iterdir())


async def test_a_profile_that_runs_out_of_steps_holds_those_that_came(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with an_engine(checkpoint.directory) as engine:
        first = asyncio.create_task(engine.profile(1, tmp_path / "first.json", patience=PATIENCE))
        await asked(engine, new_tokens=3)
        assert await first == 1  # torch's profiler begins slowly, once
        profile = asyncio.create_task(engine.profile(1000, tmp_path / "trace.json", patience=2))
        await asked(engine, new_tokens=3)
        assert 0 < await profile < 10
    assert ranges(tmp_path / "trace.json")["commit"] > 0


async def test_a_caller_who_hangs_up_leaves_no_profiler_behind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with a_pausing_engine(checkpoint.directory) as (engine, pause):
        profile = asyncio.create_task(engine.profile(1000, tmp_path / "trace.json", patience=PATIENCE))
        answer = asked(engine, new_tokens=60)
        await until(lambda: engine.load().running > 0)
        profile.cancel()
        pause.gate.set()
        await asyncio.gather(profile, return_exceptions=True)
        await answer
        again = asyncio.create_task(engine.profile(2, tmp_path / "again.json", patience=PATIENCE))
        await asked(engine, new_tokens=10)
        assert await again == 2
