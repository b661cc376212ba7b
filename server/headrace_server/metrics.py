"""Every metric the server exports. The operator reads these names: tests/contract holds both sides to them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# 1 ms to 2 min: a queue wait of a few ms must be visible, and so must a cold start.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """All series, registered in the given registry so that tests can have their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"headrace_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"headrace_{name}", text, labels, buckets=buckets, registry=registry)

        self.requests_waiting = gauge("requests_waiting", "Admitted requests that no step has included yet")
        self.requests_running = gauge("requests_running", "Requests that hold KV pages")
        self.oldest_waiting_seconds = gauge("oldest_waiting_seconds", "Age of the request at the head of the queue")
        self.waiting_tokens = gauge("waiting_tokens", "Tokens that waiting requests may cost", "class")
        self.predicted_wait_seconds = gauge(
            "predicted_wait_seconds",
            "What a request of this class would wait if it came now; NaN: not seen yet",
            "class",
        )
        self.max_running = gauge("max_running", "Most requests that run together")
        self.ready = gauge("ready", "1 when warm and not draining")
        self.kv_pages_total = gauge("kv_pages_total", "KV cache pages")
        self.kv_pages_free = gauge("kv_pages_free", "KV cache pages not held by a request")
        self.kv_pages_cached = gauge("kv_pages_cached", "Free KV pages that the prefix cache would find again")
        self.kv_pressure = gauge("kv_pressure", "Share of the KV pages that a new request cannot have")
        self.requests_inside = gauge("requests_inside", "Requests at the doors: from the first look to the last byte")
        self.batch_requests_left = gauge("batch_requests_left", "Requests of batches accepted here, without a result")
        self.drained = gauge("drained", "1 when it was told to drain and the last answer is out")
        self.startup_phase_seconds = gauge("startup_phase_seconds", "Seconds each start-up phase took", "phase")
        self.startup_phase_timestamp_seconds = gauge(
            "startup_phase_timestamp_seconds", "When each start-up phase ended, seconds since 1970", "phase"
        )
        self.device_info = gauge("device_info", "1, labelled with the device that the weights are on", "device")
        self.model_info = gauge("model_info", "1, labelled with what is served", "name", "device", "dtype")

        self.requests_received = counter("requests_received", "Requests admitted into the queue")
        self.requests_finished = counter("requests_finished", "Requests ended, by outcome", "outcome")
        self.requests_refused = counter("requests_refused", "Requests refused at the door, by reason", "reason")
        self.requests_expired = counter("requests_expired", "Requests whose deadline passed, by place", "phase")
        self.step_tokens = counter("step_tokens", "Tokens computed in steps, those computed again included", "class")
        self.padded_tokens = counter("padded_tokens", "Rows computed for nobody, since fewer rows would take longer")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens computed")
        self.generation_tokens = counter("generation_tokens", "Tokens generated")
        self.finished_request_tokens = counter("finished_request_tokens", "Prompt + generated tokens of ended requests")
        self.discarded_tokens = counter("discarded_tokens", "Tokens chosen for requests that had already ended")
        self.preemptions = counter("preemptions", "Running requests that gave up their KV pages to others")
        self.recomputed_tokens = counter("recomputed_tokens", "Tokens computed again after a preemption")
        self.prefix_cache_queries = counter("prefix_cache_queries", "Tokens looked up in the prefix cache")
        self.prefix_cache_hits = counter("prefix_cache_hits", "Tokens found there, and so not computed")
        self.kv_evictions = counter("kv_evictions", "KV pages of the prefix cache that others needed")
        self.busy_seconds = counter("busy_seconds", "Seconds spent inside forward steps")
        self.device_gap_seconds = counter(
            "device_gap_seconds", "Seconds that the device waited for the host in a row of steps"
        )

        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "From arrival to the first step that includes it", "class", "tenant_class"
        )
        self.time_to_first_token_seconds = histogram("time_to_first_token_seconds", "From arrival to the first token")
        self.inter_token_latency_seconds = histogram("inter_token_latency_seconds", "Between two tokens of a request")
        self.request_duration_seconds = histogram("request_duration_seconds", "From arrival to the end")
        self.step_seconds = histogram("step_seconds", "One forward step")
        self.batch_size = histogram("batch_size", "Sequences in one step", buckets=BATCH)
