"""Both doors of a server on loopback, in this process, in front of the real engine and a scripted runner."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from headrace_server.config import BatchConfig, EngineConfig, ServerConfig
from headrace_server.engine.loop import Engine, Limits
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.batches.runner import OfflineRunner
from headrace_server.rpc.doors import Doors, open_doors
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.text import load_text
from prometheus_client import CollectorRegistry
from scripted_runner import ScriptedRunner

NAME = "tiny"
CONTEXT = 64
PAGES = 64
HOST = "127.0.0.1"
PATIENCE = 120  # seconds, on a busy machine


@dataclass(frozen=True, slots=True)
class AtDoors:
    """Where the doors of a server in this process are, whatever is behind them."""

    doors: Doors

    @property
    def http(self) -> str:
        return f"http://{HOST}:{self.doors.http_port}"

    @property
    def grpc(self) -> str:
        return f"{HOST}:{self.doors.grpc_port}"


@dataclass(frozen=True, slots=True)
class OpenServer(AtDoors):
    engine: Engine
    runner: ScriptedRunner
    registry: CollectorRegistry

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value; 0 when it was never touched."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def until_running(self, requests: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.engine.load().running != requests:
                await asyncio.sleep(0.005)

    async def until_left(self) -> None:
        """Waits until no caller is at the doors; the engine may still hold what they asked."""
        async with asyncio.timeout(PATIENCE):
            await self.doors.arrivals.all_left()

    async def until_inside(self, requests: int) -> None:
        """Waits until the engine holds exactly that many requests, running or waiting; 0: and has told of the last."""
        async with asyncio.timeout(PATIENCE):
            if requests == 0:
                await self.engine.drained()
            while (load := self.engine.load()).running + load.waiting != requests:
                await asyncio.sleep(0.005)


def a_config(
    model: Path,
    max_connection_age: float,
    batches: BatchConfig | None = None,
    trust_tenant_header: bool = False,
    **engine: int,
) -> ServerConfig:
    return ServerConfig(
        model=model,
        name=NAME,
        host=HOST,
        grpc_port=0,
        http_port=0,
        device="cpu",
        dtype="float32",
        drain_timeout=10.0,
        max_connection_age=max_connection_age,
        termination_log=None,
        engine=EngineConfig(**engine),
        batches=batches,
        trust_tenant_header=trust_tenant_header,
    )


@dataclass(slots=True)
class SkippingClock:
    """The engine's clock, of which a test may skip some: what is late by it is late however busy the machine is."""

    skipped: float = 0.0  # seconds

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


@asynccontextmanager
async def open_server(
    model: Path,
    runner: ScriptedRunner,
    *,
    ready: bool = True,
    max_connection_age: float = 30.0,
    batches: BatchConfig | None = None,
    trust_tenant_header: bool = False,
    wall_clock: Callable[[], float] = time.time,  # noqa: TID251
    clock: Callable[[], float] = time.monotonic,
    differs: Mapping[str, Any] | None = None,
    **engine_config: int,
) -> AsyncIterator[OpenServer]:
    """`model` needs only the tokenizer's files. `ready=False` stays in the phase of loading.

    `differs`: fields of ServerConfig.
    """
    config = replace(
        a_config(model, max_connection_age, batches, trust_tenant_header, **engine_config), **(differs or {})
    )
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    doors = await open_doors(config, metrics, registry, wall_clock)
    text = load_text(model)
    limits = Limits(CONTEXT, text.vocab_size, eos_token_ids=(1,), kv_pages=PAGES, adapters=config.lora.names)
    engine = Engine(runner, config.engine, limits, metrics, clock)
    heartbeat = asyncio.create_task(engine.run())
    answers = Answers(engine, text, limits, clock)
    offline: asyncio.Task[None] | None = None
    if ready:
        await doors.serve(answers)
    if ready and doors.store is not None and batches is not None:
        offline_runner = OfflineRunner(
            doors.store,
            doors.readiness,
            metrics,
            model=NAME,
            adapters=config.lora.names,
            concurrency=batches.concurrency,
            wall_clock=wall_clock,
        )
        offline = asyncio.create_task(offline_runner.run())
    try:
        yield OpenServer(doors, engine, runner, registry)
    finally:
        runner.gate.set()
        if offline is not None:
            offline.cancel()
            await asyncio.gather(offline, return_exceptions=True)
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)
        await doors.close()


@asynccontextmanager
async def a_stub(server: OpenServer) -> AsyncIterator[inference_pb2_grpc.InferenceStub]:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        yield inference_pb2_grpc.InferenceStub(channel)
