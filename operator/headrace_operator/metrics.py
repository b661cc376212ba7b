"""Every metric of the operator. Series of an InferenceDeployment go when the object goes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OBJECT = ("namespace", "name")


class OperatorMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"headrace_operator_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_operator_{name}", text, labels, registry=registry)

        self.is_leader = gauge("is_leader", "1 while this process holds the Lease")
        self.known = gauge("inferencedeployments", "InferenceDeployments that the watch has shown")
        self.desired_replicas = gauge("desired_replicas", "Replicas decided last", *OBJECT)
        self.ready_replicas = gauge("ready_replicas", "Replicas ready and routed", *OBJECT)
        self.queue_wait_p95_seconds = gauge("queue_wait_p95_seconds", "Measured over the last 15 s", *OBJECT)
        self.capacity = gauge("replica_capacity_tokens_per_second", "Learned work of one warm replica", *OBJECT)
        self.warm_replicas = gauge("warm_replicas", "Standby pods that could serve at once", *OBJECT)
        self.decisions = counter("decisions", "Decisions by reason, doing nothing included", *OBJECT, "reason")
        self.reversals = counter("reversals", "Changes of direction of the number of replicas", *OBJECT)
        self.rollout_steps = counter("rollout_steps", "Changes of a rollout's state", *OBJECT, "state", "reason")
        self.scrape_failures = counter("scrape_failures", "Pods that did not answer a scrape", *OBJECT)
        self.reconcile_failures = counter("reconcile_failures", "Reconciles that raised", *OBJECT)
        self.events_dropped = counter("events_dropped", "Events beyond an object's rate limit", *OBJECT)
        self.reconcile_seconds = Histogram(
            "headrace_operator_reconcile_seconds", "One observe-decide-act of one object", registry=registry
        )
        self.startup_seconds = Histogram(
            "headrace_operator_startup_seconds", "Start of a pod: each step, and the whole", (*OBJECT, "step"),
            buckets=(1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 1800), registry=registry,
        )  # fmt: skip
        self.look_interval_seconds = Histogram(
            "headrace_operator_look_interval_seconds",
            "Between two looks at one object; --interval, or less after a change",
            buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 2.25, 2.5, 3, 4, 5, 7.5, 10, 15, 30, 60),
            registry=registry,
        )
        self._of_object = (
            self.warm_replicas, self.startup_seconds, self.rollout_steps,
            self.desired_replicas, self.ready_replicas, self.queue_wait_p95_seconds, self.capacity, self.decisions,
            self.reversals, self.scrape_failures, self.reconcile_failures, self.events_dropped,
        )  # fmt: skip

    def forget(self, namespace: str, name: str) -> None:
        """Remove every series of an object that is gone."""
        for metric in self._of_object:
            metric.remove_by_labels({"namespace": namespace, "name": name})
