"""vLLM's names: what an endpoint picker and a dashboard read, and that it is what our own series say."""

import pytest
from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish
from headrace_server.telemetry.aliases import REASONS, VllmNames
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

LABELS = {"model_name": "tiny", "engine": "0"}


@pytest.fixture
def exported() -> tuple[ServerMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    registry.register(VllmNames(metrics, "tiny"))
    return metrics, registry


def read(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"vllm:{name}", LABELS | labels)


def test_an_endpoint_picker_finds_queue_running_and_cache(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    metrics.requests_waiting.set(7)
    metrics.requests_running.set(3)
    metrics.kv_pressure.set(0.25)
    assert read(registry, "num_requests_waiting") == 7
    assert read(registry, "num_requests_running") == 3
    assert read(registry, "kv_cache_usage_perc") == read(registry, "gpu_cache_usage_perc") == 0.25


def test_pages_and_adapters_are_told_once_the_model_is_there(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    cache = {"block_size": "16", "num_gpu_blocks": "4096"}
    adapters = {"max_lora": "0", "running_lora_adapters": "", "waiting_lora_adapters": ""}
    assert "cache_config_info" not in generate_latest(registry).decode()
    metrics.kv_pages_total.set(4096)
    metrics.kv_page_size.set(16)
    assert read(registry, "cache_config_info", **cache) == 1
    assert read(registry, "lora_requests_info", **adapters) == 1


def test_a_histogram_keeps_its_buckets_and_loses_our_labels(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    metrics.queue_wait_seconds.labels("interactive", "named").observe(0.002)
    metrics.queue_wait_seconds.labels("batch", "default").observe(3)
    assert read(registry, "request_queue_time_seconds_count") == 2
    assert read(registry, "request_queue_time_seconds_sum") == 3.002
    assert read(registry, "request_queue_time_seconds_bucket", le="0.0025") == 1
    assert read(registry, "request_queue_time_seconds_bucket", le="+Inf") == 2


def test_prompt_tokens_are_all_of_them_as_vllm_counts(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    metrics.prompt_tokens.inc(40)
    metrics.prefix_cache_hits.inc(60)
    metrics.generation_tokens.inc(5)
    assert read(registry, "prompt_tokens_total") == 100
    assert read(registry, "prompt_tokens_cached_total") == read(registry, "prefix_cache_hits_total") == 60
    assert read(registry, "generation_tokens_total") == 5


def test_every_outcome_has_a_reason_of_theirs(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    metrics, registry = exported
    assert set(REASONS) == set(Finish)
    for outcome in Finish:
        metrics.requests_finished.labels(outcome).inc()
    reasons = {
        reason: read(registry, "request_success_total", finished_reason=reason) for reason in set(REASONS.values())
    }
    assert reasons == {"stop": 1, "length": 1, "abort": 2, "error": 1}


def test_the_text_is_one_that_prometheus_reads(exported: tuple[ServerMetrics, CollectorRegistry]) -> None:
    families = list(text_string_to_metric_families(generate_latest(exported[1]).decode()))
    types = {family.name: family.type for family in families}
    assert types["vllm:num_requests_waiting"] == "gauge"
    assert types["vllm:prompt_tokens"] == "counter"
    assert types["vllm:time_to_first_token_seconds"] == types["vllm:iteration_tokens_total"] == "histogram"
    assert len(types) == len(families)
