"""Headrace, through the door that rpc uses: scheduling, streams and metrics are part of the time."""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from comparison.wire import Answers, Door, Settings, Tokens, Work, now, settings_from_argv
from headrace_server.config import (
    EngineConfig,
    KvCacheDtype,
    QuantizationConfig,
    ServerConfig,
    WeightFormat,
    page_size_for,
)
from headrace_server.engine.loop import Engine
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import Loaded, load_model
from headrace_server.request import Request
from prometheus_client import CollectorRegistry


class Headrace:
    def __init__(self, settings: Settings, words: Sequence[str]) -> None:
        """`words`: synchronous, weights=FORMAT, kv=DTYPE; each may be missing."""
        plain = config_of(settings, overlap="synchronous" not in words)
        said = dict(word.partition("=")[::2] for word in words)
        engine = replace(plain.engine, kv_cache_dtype=KvCacheDtype(said.get("kv", "auto")))
        weights = WeightFormat(said["weights"]) if "weights" in said else None
        self._config = replace(plain, engine=engine, quantization=QuantizationConfig(weights))
        self._model = load(self._config)
        self._model.runner.warm_up()

    def answer(self, work: Work) -> Answers:
        return asyncio.run(self._answer(work))

    async def _answer(self, work: Work) -> Answers:
        registry = CollectorRegistry()
        engine = Engine(self._model.runner, self._config.engine, self._model.limits, ServerMetrics(registry), now)
        heartbeat = asyncio.create_task(engine.run())
        try:
            began = now()
            found = await asyncio.gather(*(_read(engine, prompt, work.output_tokens) for prompt in work.prompts))
            ended = now()
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
        tokens, times = zip(*found, strict=True)
        return Answers(began, tokens, times, ended, _busy(registry), resident())


def load(config: ServerConfig) -> Loaded:
    """In a thread that ends with it, as the server loads: GNU OpenMP hardly spins while threads of another pool wait,
    and a step of a small batch took 10 to 16 % longer beside the loading thread's pool.
    """
    with ThreadPoolExecutor(max_workers=1) as start_up:
        return start_up.submit(load_model, config, lambda phase: None).result()


async def _read(engine: Engine, prompt: Tokens, output: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    tokens, times = [], []
    async with aclosing(engine.submit(Request("bench", tuple(prompt), output, now()))) as stream:
        async for token in stream:
            if token.id is not None:
                tokens.append(token.id)
                times.append(now())
    return tuple(tokens), tuple(times)


def _busy(registry: CollectorRegistry) -> float:
    """A step's seconds begin where the step before ended, so they hold what the device waited for the host."""
    steps = registry.get_sample_value("headrace_busy_seconds_total") or 0.0
    return steps - (registry.get_sample_value("headrace_device_gap_seconds_total") or 0.0)


def resident() -> int:
    """Bytes of this process that are in memory."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def config_of(settings: Settings, overlap: bool) -> ServerConfig:
    directory = Path(settings.model)
    return ServerConfig(
        model=directory,
        name=directory.name,
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        device=settings.device,
        dtype=settings.dtype,
        drain_timeout=0,
        max_connection_age=0,
        termination_log=None,
        engine=EngineConfig(
            max_running=max(settings.max_requests, EngineConfig().max_running),
            page_size=page_size_for(settings.device),
            kv_cache_bytes=settings.kv_cache_bytes,
            overlap=overlap,
        ),
    )


if __name__ == "__main__":
    door = Door()
    door.serve(Headrace(settings_from_argv(), sys.argv[2:]))
