"""What a process of each task loads, and what it tells of the device."""

from dataclasses import replace
from pathlib import Path

from cross_encoders import write_cross_encoder
from headrace_server.config import Task, TelemetryConfig
from headrace_server.embedding import Judges
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.readiness import Readiness
from headrace_server.task import WarmEmbedder, load
from minilm import embed_config, minilm
from prometheus_client import CollectorRegistry


def loaded(model: Path, task: Task) -> tuple[WarmEmbedder, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    config = replace(embed_config(model), task=task, telemetry=TelemetryConfig(peak_flops=1e12, peak_bytes=2e10))
    warm = load(config, Readiness(metrics), metrics)
    assert isinstance(warm, WarmEmbedder)
    return warm, registry


async def test_an_embedder_tells_its_tokens_and_the_devices_peaks() -> None:
    warm, registry = loaded(minilm(), Task.EMBED)
    ids = await warm.tokens.tokenise("Water runs")
    assert warm.tokens.token_names(ids) == ["[CLS]", "water", "runs", "[SEP]"]
    assert await warm.tokens.tokenise("Water runs", special=False) == ids[1:-1]
    assert await warm.tokens.detokenise(ids) == "water runs"
    assert warm.tokens.tokenizer_info["cls_token"] == "[CLS]"
    assert warm.tokens.max_tokens == warm.engine.facts.max_tokens == 256
    assert registry.get_sample_value("headrace_device_peak_flops", {"dtype": "float32"}) == 1e12
    assert registry.get_sample_value("headrace_device_peak_bytes", {"device": "cpu"}) == 2e10


def test_a_cross_encoder_is_loaded_for_its_own_task(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path)
    assert loaded(tmp_path, Task.RERANK)[0].engine.facts.judges is Judges.TOGETHER
