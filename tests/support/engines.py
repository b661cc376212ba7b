"""Builders for tests of the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from headrace_server.config import EngineConfig
from headrace_server.engine.loop import Engine, Limits
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Request, Sampling, Token
from prometheus_client import CollectorRegistry
from runners import CountingRunner

LIMITS = Limits(max_context=64, vocab_size=1000, eos_token_ids=(0,), kv_pages=32)


def a_request(
    prompt: int | tuple[int, ...] = 5,
    max_new_tokens: int = 4,
    *,
    arrived_at: float = 0.0,
    stop: int | None = None,
    sampling: Sampling | None = None,
) -> Request:
    """`prompt` as a number: that many tokens, all different from those that follow it."""
    tokens = tuple(500 + place for place in range(prompt)) if isinstance(prompt, int) else prompt
    return Request(
        id="a request",
        prompt=tokens,
        max_new_tokens=max_new_tokens,
        arrived_at=arrived_at,
        sampling=sampling or Sampling(),
        stop_token_ids=frozenset() if stop is None else frozenset({stop}),
    )


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


@dataclass(slots=True)
class Running:
    """An engine whose heartbeat beats."""

    engine: Engine
    runner: CountingRunner
    clock: Clock
    heartbeat: asyncio.Task[None]
    registry: CollectorRegistry

    def metric(self, name: str, **labels: str) -> float:
        """As a scrape would read it now."""
        value = self.registry.get_sample_value(f"headrace_{name}", labels)
        assert value is not None, f"no series headrace_{name} {labels}"
        return value


@asynccontextmanager
async def a_running_engine(
    runner: CountingRunner | None = None, clock: Clock | None = None, limits: Limits = LIMITS, **config: Any
) -> AsyncIterator[Running]:
    """`config` overrides EngineConfig's fields."""
    runner, clock, registry = runner or CountingRunner(), clock or Clock(), CollectorRegistry()
    engine = Engine(runner, EngineConfig(**config), limits, ServerMetrics(registry), clock)
    heartbeat = asyncio.create_task(engine.run())
    try:
        yield Running(engine, runner, clock, heartbeat, registry)
    finally:
        runner.gate.set()
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


async def answer_of(engine: Engine, request: Request) -> list[Token]:
    async with aclosing(engine.submit(request)) as tokens:
        return [token async for token in tokens]


async def until(condition: Callable[[], bool]) -> None:
    """Lets everything else run until `condition` holds; fails loudly instead of hanging."""
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.001)
