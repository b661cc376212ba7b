"""Our series under vLLM's names, which dashboards and the Gateway API's endpoint picker look for.

Made at scrape time of the values that are there already: a request and a token cost nothing more.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish
from headrace_server.telemetry.values import samples_of, value_of

# An expired request is one that vLLM's client would have aborted.
REASONS: Mapping[str, str] = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.CANCELLED: "abort",
    Finish.EXPIRED: "abort",
    Finish.FAILED: "error",
}


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    sources: tuple[MetricWrapperBase, ...]  # added up, their labels left out

    def family(self, labels: dict[str, str]) -> Metric:
        """`le` is the one label of a source that is kept."""
        first = next(iter(self.sources[0].collect()))
        found = Metric(f"vllm:{self.name}", first.documentation, first.type)
        for (suffix, le), value in self._sums().items():
            found.add_sample(f"vllm:{self.name}{suffix}", labels if le is None else {**labels, "le": le}, value)
        return found

    def _sums(self) -> dict[tuple[str, str | None], float]:
        """By what follows the family's name, and bucket."""
        sums: dict[tuple[str, str | None], float] = {}
        for source in self.sources:
            name = next(iter(source.collect())).name
            for sample in samples_of(source):
                key = sample.name.removeprefix(name), sample.labels.get("le")
                sums[key] = sums.get(key, 0.0) + sample.value
        return sums


def aliases(ours: ServerMetrics) -> tuple[Alias, ...]:
    def one(name: str, *sources: MetricWrapperBase) -> Alias:
        return Alias(name, sources)

    return (
        # The Gateway API's model server protocol: TotalQueuedRequests, TotalRunningRequests, KVCacheUtilization.
        one("num_requests_waiting", ours.requests_waiting),
        one("num_requests_running", ours.requests_running),
        one("kv_cache_usage_perc", ours.kv_pressure),
        one("gpu_cache_usage_perc", ours.kv_pressure),  # its name before vLLM 0.10
        one("prompt_tokens", ours.prompt_tokens, ours.prefix_cache_hits),  # theirs counts what the cache had, too
        one("prompt_tokens_cached", ours.prefix_cache_hits),
        one("generation_tokens", ours.generation_tokens),
        one("num_preemptions", ours.preemptions),
        one("prefix_cache_queries", ours.prefix_cache_queries),
        one("prefix_cache_hits", ours.prefix_cache_hits),
        one("spec_decode_num_drafts", ours.speculative_guesses),
        one("spec_decode_num_draft_tokens", ours.speculative_tokens),
        one("spec_decode_num_accepted_tokens", ours.speculative_accepted_tokens),
        one("time_to_first_token_seconds", ours.time_to_first_token_seconds),
        one("inter_token_latency_seconds", ours.inter_token_latency_seconds),
        one("time_per_output_token_seconds", ours.inter_token_latency_seconds),  # its name before vLLM 0.11
        one("request_time_per_output_token_seconds", ours.time_per_output_token_seconds),
        one("e2e_request_latency_seconds", ours.request_duration_seconds),
        one("request_queue_time_seconds", ours.queue_wait_seconds),
        one("request_inference_time_seconds", ours.inference_seconds),
        one("request_prefill_time_seconds", ours.prefill_seconds),
        one("request_decode_time_seconds", ours.decode_seconds),
        one("request_prompt_tokens", ours.request_prompt_tokens),
        one("request_generation_tokens", ours.request_generation_tokens),
        one("request_params_max_tokens", ours.request_max_tokens),
        one("iteration_tokens_total", ours.tokens_per_step),
    )


class VllmNames(Collector):
    def __init__(self, ours: ServerMetrics, model: str) -> None:
        self._ours = ours
        self._aliases = aliases(ours)
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterable[Metric]:
        for alias in self._aliases:
            yield alias.family(self._labels)
        yield self._ended()
        yield from self._facts()

    def _ended(self) -> Metric:
        sums: dict[str, float] = {}
        for outcome, reason in REASONS.items():
            sums[reason] = sums.get(reason, 0.0) + (value_of(self._ours.requests_finished, outcome=outcome) or 0.0)
        found = Metric("vllm:request_success", "Requests ended, by reason", "counter")
        for reason, value in sums.items():
            found.add_sample("vllm:request_success_total", {**self._labels, "finished_reason": reason}, value)
        return found

    def _facts(self) -> Iterator[Metric]:
        """What is fixed once the model is loaded; nothing before."""
        pages = value_of(self._ours.kv_pages_total)
        if not pages:
            return
        size = value_of(self._ours.kv_page_size) or 0.0
        cache = {"block_size": f"{size:.0f}", "num_gpu_blocks": f"{pages:.0f}"}
        yield _info("cache_config_info", "How the KV cache is cut", self._labels | cache)
        asleep = value_of(self._ours.sleeping) or 0.0  # theirs moves weights, too, or drops them
        states = {"awake": 1 - asleep, "weights_offloaded": 0.0, "discard_all": 0.0}
        sleep = Metric("vllm:engine_sleep_state", "Whether the engine is awake", "gauge")
        for state, value in states.items():
            sleep.add_sample("vllm:engine_sleep_state", self._labels | {"sleep_state": state}, value)
        yield sleep
        yield _info("lora_requests_info", "Adapters in use", self._labels | self._adapters())

    def _adapters(self) -> dict[str, str]:
        """All that are served are loaded: an endpoint picker reads who has one at work, and that there is room."""
        found: dict[str, dict[str, float]] = {}  # by state, then by name
        for sample in samples_of(self._ours.adapter_requests):
            found.setdefault(sample.labels["state"], {})[sample.labels["adapter"]] = sample.value
        names = {
            f"{state}_lora_adapters": ",".join(name for name, requests in found.get(state, {}).items() if requests)
            for state in ("running", "waiting")
        }
        return {"max_lora": str(max((len(each) for each in found.values()), default=0)), **names}


def _info(name: str, text: str, labels: dict[str, str]) -> Metric:
    found = Metric(f"vllm:{name}", text, "gauge")
    found.add_sample(f"vllm:{name}", labels, 1.0)
    return found
