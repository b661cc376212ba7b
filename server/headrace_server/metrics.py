"""Every metric the server counts itself. The operator reads these names: tests/contract holds both sides to them.

What follows from them at scrape time (vLLM's names, rates, shares) is made in telemetry/; docs/metrics.md lists all.
"""

from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace_server.errors import Refusal

# 1 ms to 2 min: a queue wait of a few ms must be visible, and so must a cold start.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144)
# OpenTelemetry prescribes these for its GenAI metrics, so that servers can be compared.
GEN_AI_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
GEN_AI_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
GEN_AI_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type")


class Breakage(StrEnum):
    """Why the engine broke, as `kind` labels headrace_engine_failures."""

    OUT_OF_MEMORY = "out_of_memory"  # of the device, in a step
    OTHER = "other"

    @classmethod
    def of(cls, fault: Exception) -> "Breakage":
        return cls.OUT_OF_MEMORY if isinstance(fault, MemoryError) else cls.OTHER


class Direction(StrEnum):
    """Of tokens, as `kind` labels them."""

    PROMPT = "prompt"
    GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class Make:
    """Makes series of ours in one registry."""

    registry: CollectorRegistry

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"headrace_{name}", text, labels, registry=self.registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headrace_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"headrace_{name}", text, labels, buckets=buckets, registry=self.registry)


class ServerMetrics:
    """All series, registered in the given registry so that tests can have their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        make = Make(registry)
        self._make_gauges(make)
        self._make_counters(make)
        self._make_histograms(make)
        self._make_gen_ai(make)
        self._make_access(make)
        self._make_caches(make)
        for reason in Refusal:  # a rate needs the zero before the first one
            self.requests_refused.labels(reason)
        for kind in Breakage:
            self.engine_failures.labels(kind)

    def _make_gauges(self, make: Make) -> None:
        self.requests_waiting = make.gauge("requests_waiting", "Admitted requests that no step has included yet")
        self.requests_running = make.gauge("requests_running", "Requests that hold KV pages")
        self.oldest_waiting_seconds = make.gauge(
            "oldest_waiting_seconds", "Age of the request at the head of the queue"
        )
        self.requests_waiting_by_class = make.gauge("requests_waiting_by_class", "Of those that wait", "class")
        self.requests_running_by_class = make.gauge("requests_running_by_class", "Of those that run", "class")
        self.adapter_requests = make.gauge("adapter_requests", "Requests for a LoRA adapter", "adapter", "state")
        self.oldest_waiting_seconds_by_class = make.gauge(
            "oldest_waiting_seconds_by_class", "Age of the first one of the class that waits", "class"
        )
        self.waiting_tokens = make.gauge("waiting_tokens", "Tokens that waiting requests may cost", "class")
        self.predicted_wait_seconds = make.gauge(
            "predicted_wait_seconds",
            "What a request of this class would wait if it came now; NaN: not seen yet",
            "class",
        )
        self.max_running = make.gauge("max_running", "Most requests that run together")
        self.ready = make.gauge("ready", "1 when warm and not draining")
        self.kv_pages_total = make.gauge("kv_pages_total", "KV cache pages")
        self.kv_pages_free = make.gauge("kv_pages_free", "KV cache pages not held by a request")
        self.kv_pages_cached = make.gauge("kv_pages_cached", "Free KV pages that the prefix cache would find again")
        self.kv_pressure = make.gauge("kv_pressure", "Share of the KV pages that a new request cannot have")
        self.requests_inside = make.gauge(
            "requests_inside", "Requests at the doors: from the first look to the last byte"
        )
        self.batch_requests_left = make.gauge(
            "batch_requests_left", "Requests of batches accepted here, without a result"
        )
        self.drained = make.gauge("drained", "1 when it was told to drain and the last answer is out")
        self.startup_phase_seconds = make.gauge("startup_phase_seconds", "Seconds each start-up phase took", "phase")
        self.startup_phase_timestamp_seconds = make.gauge(
            "startup_phase_timestamp_seconds", "When each start-up phase ended, seconds since 1970", "phase"
        )
        self.device_info = make.gauge("device_info", "1, labelled with the device that the weights are on", "device")
        self.model_info = make.gauge("model_info", "1, labelled with what is served", "name", "device", "dtype")

        # No series until it is known: nothing that is made of these is ever made of a guess.
        self.device_peak_flops = make.gauge("device_peak_flops", "Operations a second that the device can do", "dtype")
        self.device_peak_bytes = make.gauge("device_peak_bytes", "Bytes a second that its memory can move", "device")
        self.sleeping = make.gauge("sleeping", "1 while the KV cache is given back, and nothing is answered")
        self.speculating = make.gauge("speculating", "1 while tokens are guessed, since that is faster at the moment")
        self.kv_page_size = make.gauge("kv_page_size", "Tokens that a KV page holds")

    def _make_counters(self, make: Make) -> None:
        self.requests_received = make.counter("requests_received", "Requests admitted into the queue")
        self.requests_finished = make.counter("requests_finished", "Requests ended, by outcome", "outcome")
        self.requests_refused = make.counter("requests_refused", "Requests refused at the door, by reason", "reason")
        # What of the demand is whose: offline work fills what is left, and orders no replica.
        self.requests_received_by_class = make.counter("requests_received_by_class", "Of those admitted", "class")
        self.requests_refused_by_class = make.counter(
            "requests_refused_by_class", "Of those refused for want of room", "class"
        )
        self.requests_retried_by_class = make.counter(
            "requests_retried_by_class",
            "Of those admitted or refused for want of room: said they were asked before",
            "class",
        )
        self.requests_finished_by_class = make.counter("requests_finished_by_class", "Of those ended", "class")
        self.finished_request_tokens_by_class = make.counter(
            "finished_request_tokens_by_class", "Prompt + generated tokens of those ended", "class"
        )
        self.requests_retried = make.counter("requests_retried", "Requests that said they were asked before")
        self.requests_expired = make.counter("requests_expired", "Requests whose deadline passed, by place", "phase")
        self.step_tokens = make.counter(
            "step_tokens", "Tokens computed in steps, those computed again included", "class"
        )
        self.padded_tokens = make.counter(
            "padded_tokens", "Rows computed for nobody, since fewer rows would take longer"
        )
        self.prompt_tokens = make.counter("prompt_tokens", "Prompt tokens computed")
        self.generation_tokens = make.counter("generation_tokens", "Tokens generated")
        self.finished_request_tokens = make.counter(
            "finished_request_tokens", "Prompt + generated tokens of ended requests"
        )
        self.discarded_tokens = make.counter("discarded_tokens", "Tokens chosen for requests that had already ended")
        self.preemptions = make.counter("preemptions", "Running requests that gave up their KV pages to others")
        self.recomputed_tokens = make.counter("recomputed_tokens", "Tokens computed again after a preemption")
        self.prefix_cache_queries = make.counter("prefix_cache_queries", "Tokens looked up in the prefix cache")
        self.prefix_cache_hits = make.counter("prefix_cache_hits", "Tokens found there, and so not computed")
        self.speculative_guesses = make.counter(
            "speculative_guesses", "Times that a request's next tokens were guessed"
        )
        self.speculative_tokens = make.counter("speculative_tokens", "Tokens that were guessed")
        self.speculative_accepted_tokens = make.counter(
            "speculative_accepted_tokens", "Of them, those that became part of an answer"
        )
        self.kv_evictions = make.counter("kv_evictions", "KV pages of the prefix cache that others needed")
        self.request_shapes = make.counter(
            "request_shapes", "Ended requests, by length of both parts", "prompt", "answer"
        )
        self.engine_failures = make.counter("engine_failures", "Steps that broke; the process ends after one", "kind")
        self.estimated_flops = make.counter("estimated_flops", "Operations that the steps had to do")
        self.estimated_bytes = make.counter(
            "estimated_bytes", "Bytes that the steps had to move in the device's memory"
        )
        self.device_busy_seconds = make.counter("device_busy_seconds", "Seconds that the device computed")
        self.busy_seconds = make.counter("busy_seconds", "Seconds spent inside forward steps")
        self.fetch_seconds = make.counter(
            "fetch_seconds", "Seconds that the host spent on batches of texts to embed: tokenising, packing, launching"
        )
        self.device_gap_seconds = make.counter(
            "device_gap_seconds", "Seconds that the device waited for the host in a row of steps"
        )

    def _make_histograms(self, make: Make) -> None:
        self.queue_wait_seconds = make.histogram(
            "queue_wait_seconds", "From arrival to the first step that includes it", "class", "tenant_class"
        )
        self.time_to_first_token_seconds = make.histogram(
            "time_to_first_token_seconds", "From arrival to the first token"
        )
        self.inter_token_latency_seconds = make.histogram(
            "inter_token_latency_seconds", "Between two tokens of a request"
        )
        self.request_duration_seconds = make.histogram("request_duration_seconds", "From arrival to the end")
        self.step_seconds = make.histogram("step_seconds", "One forward step")
        self.batch_size = make.histogram("batch_size", "Sequences in one step", buckets=BATCH)
        self.tokens_per_step = make.histogram("tokens_per_step", "Tokens computed in one step", buckets=TOKENS)
        self.prefill_seconds = make.histogram(
            "prefill_seconds", "From the first step that includes it to the first token"
        )
        self.decode_seconds = make.histogram("decode_seconds", "From the first token to the last")
        self.inference_seconds = make.histogram("inference_seconds", "From the first step that includes it to the end")
        self.time_per_output_token_seconds = make.histogram(
            "time_per_output_token_seconds", "Mean time between two tokens of a request, once it has ended"
        )
        self.request_prompt_tokens = make.histogram("request_prompt_tokens", "Tokens of a prompt", buckets=TOKENS)
        self.request_generation_tokens = make.histogram(
            "request_generation_tokens", "Tokens of an answer, a stop token included", buckets=TOKENS
        )
        self.request_max_tokens = make.histogram(
            "request_max_tokens", "Longest answer that was asked for", buckets=TOKENS
        )

    def _make_access(self, make: Make) -> None:
        self.reloads = make.counter("reloads", "Changed files that were read again, or refused", "file", "outcome")
        self.certificate_expires_timestamp_seconds = make.gauge(
            "certificate_expires_timestamp_seconds", "When the first certificate of the file ends", "file"
        )
        self.crl_expires_timestamp_seconds = make.gauge(
            "crl_expires_timestamp_seconds", "When the list of revoked certificates should be replaced", "authority"
        )
        self.reload_ok = make.gauge(
            "reload_ok", "0 when the file as it is now was refused, and an older one holds", "file"
        )

    def _make_caches(self, make: Make) -> None:
        self.cache_lookups = make.counter(
            "cache_lookups", "Answers and texts looked up at the doors", "cache", "outcome"
        )
        self.cache_evictions = make.counter("cache_evictions", "Kept values that had to make room for others", "cache")
        self.cache_bytes = make.gauge("cache_bytes", "Memory of what is kept, about", "cache")
        self.cache_entries = make.gauge("cache_entries", "Answers and texts that are kept", "cache")

    def _make_gen_ai(self, make: Make) -> None:
        def gen_ai(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"gen_ai_server_{name}", text, GEN_AI, buckets=buckets, registry=make.registry)

        self.gen_ai_request_duration = gen_ai(
            "request_duration_seconds", "From arrival at the door to the last byte", GEN_AI_DURATION
        )
        self.gen_ai_time_to_first_token = gen_ai(
            "time_to_first_token_seconds", "From arrival to the first token", GEN_AI_FIRST_TOKEN
        )
        self.gen_ai_time_per_output_token = gen_ai(
            "time_per_output_token_seconds", "(duration - time to first token) / (tokens - 1)", GEN_AI_TOKEN
        )
