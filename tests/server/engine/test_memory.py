"""What thousands of requests leave behind: nothing."""

import asyncio
import gc
import random
import resource
import tracemalloc
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from engines import LIMITS, Running, a_request, a_running_engine, until
from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine
from headrace_server.engine.sequence import Step
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Request, Sampling
from models import a_config
from prometheus_client import CollectorRegistry
from runners import Counted, CountingRunner

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
TOGETHER = 64  # requests
ROOM = 2 * TOGETHER  # a tenant with more than its share of them inside gets three quarters


class Forgetful(CountingRunner):
    """Keeps no steps: what grows is the engine's."""

    def launch(self, step: Step) -> Counted:
        counted = super().launch(step)
        self.steps.clear()
        return counted


async def read_some(engine: Engine, request: Request, tokens: int) -> None:
    """Hangs up after so many."""
    async with aclosing(engine.submit(request)) as stream:
        for _ in range(tokens):
            await anext(stream)


def requests(count: int, dice: random.Random) -> list[tuple[Request, int]]:
    """With the number of their tokens that are read: a third hangs up early. Of three tenants; all begin alike."""
    asked = []
    for _ in range(count):
        request = replace(a_request(dice.randint(1, 40), dice.randint(1, 8)), tenant=dice.choice("abc"))
        early = dice.random() < 1 / 3
        asked.append((request, dice.randrange(request.max_new_tokens) if early else request.max_new_tokens))
    return asked


async def answer_all(engine: Engine, asked: list[tuple[Request, int]]) -> None:
    waiting = iter(asked)

    async def one_after_the_other() -> None:
        for request, tokens in waiting:
            await read_some(engine, request, tokens)

    await asyncio.gather(*(one_after_the_other() for _ in range(TOGETHER)))
    await engine.drained()


@dataclass(frozen=True, slots=True)
class Kept:
    """What is held while nobody asks for anything."""

    streams: int
    waiting: int
    running: int
    leaving: int
    steps: int
    inbox: int


NOTHING = Kept(0, 0, 0, 0, 0, 0)


def kept(engine: Engine) -> Kept:
    scheduler = engine._scheduler
    return Kept(
        len(engine._streams),
        len(scheduler.queue),
        len(scheduler._places.running),
        len(scheduler._leaving),
        len(scheduler._in_flight),
        len(engine._core._inbox),
    )


async def test_ten_thousand_requests_leave_nothing_behind() -> None:
    dice = random.Random(7)
    async with a_running_engine(Forgetful(), max_running=32, max_tokens_per_step=128, max_waiting=ROOM) as running:
        await answer_all(running.engine, requests(1000, dice))
        tracemalloc.start()
        await answer_all(running.engine, requests(1000, dice))
        before = traced()
        await answer_all(running.engine, requests(8000, dice))
        grown = traced() - before
        tracemalloc.stop()
        await until(lambda: kept(running.engine) == NOTHING)  # what is in flight for those who hung up ends soon
        assert_cache_is_bounded(running)
        assert running.metric("requests_received_total") == 10_000
        assert running.metric("requests_finished_total", outcome="cancelled") > 1000
        # One small object kept for each request would be more.
        assert grown < 100_000, f"{grown} bytes more after 8,000 requests"


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def assert_cache_is_bounded(running: Running) -> None:
    cache = running.engine._scheduler.cache
    assert cache is not None
    assert running.engine.load().kv_pages_free == LIMITS.kv_pages
    assert 0 < len(cache._entries) <= LIMITS.kv_pages
    assert len(cache._by_page) <= LIMITS.kv_pages


async def test_a_real_model_holds_the_memory_that_it_held_after_its_first_requests() -> None:
    from headrace_server.model.loading import load_model

    config = a_config(SHIPPED, engine=EngineConfig(max_running=16, kv_cache_bytes=8 * 2**20))
    loaded = load_model(config, lambda phase: None)
    loaded.runner.warm_up()
    registry, dice = CollectorRegistry(), random.Random(11)
    engine = Engine(loaded.runner, config.engine, loaded.limits, ServerMetrics(registry))
    heartbeat = asyncio.create_task(engine.run())
    try:
        await answer_all(engine, sampled(100, dice))
        before = resident()
        await answer_all(engine, sampled(400, dice))
        await until(lambda: kept(engine) == NOTHING)
        grown = resident() - before
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)
    assert grown < 8 * 2**20, f"{grown} bytes more after 400 requests"


def sampled(count: int, dice: random.Random) -> list[tuple[Request, int]]:
    """Greedy and drawn, with and without logprobs."""
    settings = (Sampling(), Sampling(temperature=1.0, top_k=9), Sampling(repetition_penalty=1.2, logprobs=3))
    return [(replace(request, sampling=dice.choice(settings)), tokens) for request, tokens in requests(count, dice)]


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
