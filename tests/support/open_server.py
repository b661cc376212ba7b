"""Both doors of a server on loopback, in this process, in front of the real engine and a scripted runner."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from headrace_server.config import EngineConfig, ServerConfig
from headrace_server.engine.loop import Engine, Limits
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.doors import Doors, open_doors
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.text import load_text
from prometheus_client import CollectorRegistry
from scripted_runner import ScriptedRunner

NAME = "tiny"
CONTEXT = 64
PAGES = 64
HOST = "127.0.0.1"
PATIENCE = 20  # seconds, on a busy machine


@dataclass(frozen=True, slots=True)
class OpenServer:
    doors: Doors
    engine: Engine
    runner: ScriptedRunner
    registry: CollectorRegistry

    @property
    def http(self) -> str:
        return f"http://{HOST}:{self.doors.http_port}"

    @property
    def grpc(self) -> str:
        return f"{HOST}:{self.doors.grpc_port}"

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value; 0 when it was never touched."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def until_running(self, requests: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.engine.load().running != requests:
                await asyncio.sleep(0.005)

    async def until_inside(self, requests: int) -> None:
        """Waits until the engine holds exactly that many requests, running or waiting."""
        async with asyncio.timeout(PATIENCE):
            while (load := self.engine.load()).running + load.waiting != requests:
                await asyncio.sleep(0.005)


def a_config(model: Path, max_connection_age: float, **engine: int) -> ServerConfig:
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
    )


@asynccontextmanager
async def open_server(
    model: Path,
    runner: ScriptedRunner,
    *,
    ready: bool = True,
    max_connection_age: float = 30.0,
    **engine_config: int,
) -> AsyncIterator[OpenServer]:
    """`model` needs only the tokenizer's files. `ready=False` stays in the phase of loading."""
    config = a_config(model, max_connection_age, **engine_config)
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    doors = await open_doors(config, metrics, registry)
    text = load_text(model)
    limits = Limits(max_context=CONTEXT, vocab_size=text.vocab_size, eos_token_ids=(1,), kv_pages=PAGES)
    engine = Engine(runner, config.engine, limits, metrics, time.monotonic)
    heartbeat = asyncio.create_task(engine.run())
    if ready:
        await doors.serve(Answers(engine, text, limits, time.monotonic))
    try:
        yield OpenServer(doors, engine, runner, registry)
    finally:
        runner.gate.set()
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)
        await doors.close()


@asynccontextmanager
async def a_stub(server: OpenServer) -> AsyncIterator[inference_pb2_grpc.InferenceStub]:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        yield inference_pb2_grpc.InferenceStub(channel)
