"""What the router says of itself, on /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

HELD = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300)  # seconds


class RouterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "headrace_router_requests", "Requests by what became of them before a replica saw them", ["door", "reason"],
            registry=registry,
        )  # fmt: skip
        self.revisions = Counter(
            "headrace_router_revision_requests", "Requests by the revision of the replica they went to", ["revision"],
            registry=registry,
        )  # fmt: skip
        self.mirrored = Counter("headrace_router_mirrored", "Requests that a mirror got a copy of", registry=registry)
        self.models = Counter(
            "headrace_router_model_requests", "Requests by the model that a rule named for them", ["model", "rule"],
            registry=registry,
        )  # fmt: skip
        self.fallbacks = Counter(
            "headrace_router_fallbacks", "Whole answers by whether another model was asked instead", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.replica_seconds = Counter(
            "headrace_router_model_replica_seconds", "Seconds of ready replicas since this router began", ["model"],
            registry=registry,
        )  # fmt: skip
        self.cost = Counter(
            "headrace_router_model_cost", "What those cost, by the file's costPerHour", ["model"], registry=registry
        )
        self.start_seconds = Gauge(
            "headrace_router_start_seconds", "What who is refused while no replica is ready is told to wait", ["model"],
            registry=registry,
        )  # fmt: skip
        self.held = Gauge(
            "headrace_router_held_requests", "Requests held because no replica is ready", registry=registry
        )
        self.oldest_held = Gauge(
            "headrace_router_oldest_held_seconds", "How long the oldest held request waits", registry=registry
        )
        self.model_held = Gauge(
            "headrace_router_model_held_requests", "Requests held because no replica of a model is ready",
            ["model", "deployment"], registry=registry,
        )  # fmt: skip
        self.model_oldest_held = Gauge(
            "headrace_router_model_oldest_held_seconds", "How long the oldest held request of a model waits",
            ["model", "deployment"], registry=registry,
        )  # fmt: skip
        self.held_seconds = Histogram(
            "headrace_router_held_seconds", "How long requests were held", registry=registry, buckets=HELD
        )
        self.certificate_ends = Gauge(
            "headrace_router_certificate_expires_timestamp_seconds",
            "When the first certificate of a file ends: our own, or who signs for a model's replicas",
            ["file", "model"], registry=registry,
        )  # fmt: skip
        self.reload_ok = Gauge(
            "headrace_router_reload_ok", "0 when a file as it is now was refused, and an older one holds",
            ["file", "model"], registry=registry,
        )  # fmt: skip
        self.replicas = Gauge("headrace_router_replicas", "Replicas that may be given requests", registry=registry)
        self.in_flight = Gauge("headrace_router_requests_in_flight", "Requests at a replica", registry=registry)
        self.unreached = Counter(
            "headrace_router_unreached", "Requests whose first replica did not answer", registry=registry
        )
        self.ejections = Counter(
            "headrace_router_ejections", "Times that a replica was left out for a while", registry=registry
        )
