"""What thousands of requests leave behind, counted; and as a program, of a real model in a process of its own:

python -m leftovers        # bytes more after 200 requests, when all has been there once
"""

import asyncio
import gc
import random
import resource
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from engines import a_request, until
from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Request, Sampling
from models import a_config
from prometheus_client import CollectorRegistry

SHIPPED = Path(__file__).parents[2] / "examples" / "models" / "scripture-1m"
TOGETHER = 64  # requests


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


ROUNDS = 12  # nine were enough for every number of rows to have been there


async def grown() -> int:
    """Bytes, in the round of 200 requests that left the least.

    What is kept of requests is kept in every round; the first step of a number of rows, which the clock decides,
    leaves its kernel's memory once.
    """
    from headrace_server.model.loading import load_model

    config = a_config(SHIPPED, engine=EngineConfig(max_running=16, kv_cache_bytes=8 * 2**20))
    loaded = load_model(config, lambda phase: None)
    loaded.runner.warm_up()
    registry, dice = CollectorRegistry(), random.Random(11)
    engine = Engine(loaded.runner, config.engine, loaded.limits, ServerMetrics(registry))
    heartbeat = asyncio.create_task(engine.run())
    try:
        await answer_all(engine, sampled(100, dice))
        sizes = [resident()]
        for _ in range(ROUNDS):
            await answer_all(engine, sampled(200, dice))
            await until(lambda: kept(engine) == NOTHING)
            sizes.append(resident())
        return min(after - before for before, after in pairwise(sizes))
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


def sampled(count: int, dice: random.Random) -> list[tuple[Request, int]]:
    """Greedy and drawn, with and without logprobs."""
    settings = (Sampling(), Sampling(temperature=1.0, top_k=9), Sampling(repetition_penalty=1.2, logprobs=3))
    return [(replace(request, sampling=dice.choice(settings)), tokens) for request, tokens in requests(count, dice)]


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    print(asyncio.run(grown()))
