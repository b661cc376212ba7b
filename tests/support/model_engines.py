"""An engine with a real model behind it, and requests that ask for everything that may be asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from engines import answer_of
from headrace_server.config import EngineConfig, LoraConfig, QuantizationConfig
from headrace_server.engine.loop import Engine
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import load_model
from headrace_server.request import Request, Sampling
from models import a_config
from prometheus_client import CollectorRegistry

PROMPT = tuple(range(3, 103))
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0, seed=5),
    Sampling(temperature=0.8, top_k=40, top_p=0.9, seed=6, repetition_penalty=1.2),
    Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3),
    Sampling(temperature=1.2, min_p=0.02, seed=7, logit_bias=((9, 3.0), (11, -5.0))),
)
WHOLE = QuantizationConfig()
NO_ADAPTERS = LoraConfig()


@asynccontextmanager
async def an_engine(
    directory: Path,
    weights: QuantizationConfig = WHOLE,
    *,
    dtype: str = "float32",
    lora: LoraConfig = NO_ADAPTERS,
    **settings: object,
) -> AsyncIterator[tuple[Engine, CollectorRegistry]]:
    """Every gather on the device is checked."""
    config = EngineConfig(**({"page_size": 8, "max_tokens_per_step": 32, "check_gathers": True} | settings))
    served = replace(a_config(directory, dtype, engine=config, quantization=weights), lora=lora)
    loaded = load_model(served, on_phase=lambda phase: None)
    registry = CollectorRegistry()
    engine = Engine(loaded.runner, config, loaded.limits, ServerMetrics(registry))
    heartbeat = asyncio.create_task(engine.run())
    try:
        yield engine, registry
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


def some_requests(**fields: object) -> list[Request]:
    return [
        Request(str(n), PROMPT[: 5 + 9 * n], 30, 0.0, sampling, stop_token_ids=frozenset({17, 201, 77}), **fields)
        for n, sampling in enumerate(SAMPLINGS * 2)
    ]


async def answers(
    directory: Path, requests: list[Request], weights: QuantizationConfig = WHOLE, **settings: object
) -> list[list[int | None]]:
    async with an_engine(directory, weights, **settings) as (engine, _):
        found = await asyncio.gather(*(answer_of(engine, request) for request in requests))
    return [[token.id for token in tokens] for tokens in found]
