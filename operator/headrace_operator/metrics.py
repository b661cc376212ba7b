"""Every metric of the operator, with its unit in the name and its meaning in the help text.

docs/metrics.md lists them. Series of an InferenceDeployment are there while this process leads, and go with the object.
"""

from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

OBJECT = ("namespace", "name")
Key = tuple[str, str]  # (namespace, name)
LOOK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
INTERVAL_SECONDS = (0.1, 0.25, 0.5, 1, 1.5, 2, 2.25, 2.5, 3, 4, 5, 7.5, 10, 15, 30, 60)
START_SECONDS = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 1800)
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ObjectGauge(Collector):
    """A gauge of InferenceDeployments. What is not known at a look has no series: never an old value, never 0.

    As numbers, which become series when somebody asks: of 500 objects 22,000 of Prometheus' own take 15 MB.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        """`labels` beside the object's."""
        self._new = partial(GaugeMetricFamily, name, text, labels=(*OBJECT, *labels))
        self._values: dict[Key, Mapping[Any, float]] = {}

    def set(self, key: Key, value: float | None) -> None:
        self.set_each(key, {} if value is None else {(): value})

    def set_each(self, key: Key, values: Mapping[Any, float]) -> None:
        """`values` by the labels beside the object's, as tuples of text; series of other labels go."""
        self._values[key] = values

    def forget(self, key: Key) -> None:
        self._values.pop(key, None)

    def describe(self) -> list[Metric]:
        return [self._new()]

    def collect(self) -> list[Metric]:
        """In any thread."""
        family = self._new()
        for key, values in list(self._values.items()):
            for labels, value in values.items():
                family.add_metric((*key, *labels), value)
        return [family]


class Make:
    """Makes series in one registry, and knows those that go with their object."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.gauges: list[ObjectGauge] = []
        self.counted: list[Counter | Histogram] = []

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"headrace_operator_{name}", text, labels, registry=self._registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        made = Counter(f"headrace_operator_{name}", text, labels, registry=self._registry)
        self.counted += [made] if set(OBJECT) <= set(labels) else []
        return made

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        made = Histogram(f"headrace_operator_{name}", text, labels, buckets=buckets, registry=self._registry)
        self.counted += [made] if set(OBJECT) <= set(labels) else []
        return made

    def of_object(self, name: str, text: str, *labels: str) -> ObjectGauge:
        self.gauges.append(made := ObjectGauge(f"headrace_operator_{name}", text, labels))
        self._registry.register(made)
        return made


class OperatorMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._make = make = Make(registry)
        self._of_the_process(make)
        self._of_its_work(make)
        self._of_decisions(make)
        self._of_their_inputs(make)
        self._of_pods(make)

    def _of_the_process(self, make: Make) -> None:
        make.gauge("build_info", "1, labelled with the operator's version", "version").labels(
            version("headrace-operator")
        ).set(1)
        self.is_leader = make.gauge("is_leader", "1 while this process holds the Lease")
        self.known = make.gauge("inferencedeployments", "InferenceDeployments that the watch has shown")
        self.queue_depth = make.gauge(
            "queue_depth", "Objects that wait for a look, are looked at, or back off", "state"
        )
        self.queue_oldest_seconds = make.gauge(
            "queue_oldest_seconds", "Seconds that the longest waiting object has waited"
        )
        self.watch_event_at = make.gauge(
            "watch_last_event_timestamp_seconds", "Seconds since 1970 at which the watch was heard last", "resource"
        )
        self.listed_at = make.gauge(
            "list_timestamp_seconds", "Seconds since 1970 at which the last full list ended, which repairs the watches"
        )
        self.list_repairs = make.counter(
            "list_repairs", "Objects that a full list knew better than the watch: newer, or gone", "resource"
        )

    def _of_its_work(self, make: Make) -> None:
        self.api_requests = make.counter(
            "api_requests", "Tries of calls to the API server by HTTP status, 0 without an answer; not Kopf's watches",
            "verb", "resource", "code",
        )  # fmt: skip
        self.api_request_seconds = make.histogram(
            "api_request_seconds", "Seconds of one try of a call to the API server", CALL_SECONDS, "verb"
        )
        self.scrape_errors = make.counter(
            "scrape_errors", "Scrapes of pods that failed; those of starting pods too", "reason"
        )
        self.reconciles = make.counter("reconciles", "Looks at InferenceDeployments that ended", "result")
        self.reconcile_seconds = make.histogram("reconcile_seconds", "Seconds of one observe-decide-act", LOOK_SECONDS)
        self.look_interval_seconds = make.histogram(
            "look_interval_seconds", "Seconds between two looks at one object; --interval, or less after a change",
            INTERVAL_SECONDS,
        )  # fmt: skip

    def _of_decisions(self, make: Make) -> None:
        self.decided_at = make.of_object(
            "last_decision_timestamp_seconds", "Seconds since 1970 at which the number of replicas was decided last"
        )
        self.changed_at = make.of_object(
            "last_change_timestamp_seconds", "Seconds since 1970 at which the number of replicas was last changed",
            "direction", "reason",
        )  # fmt: skip
        self.reason = make.of_object("reason", "1, labelled with the reason of the last decision", "reason")
        self.decisions = make.counter(
            "decisions", "Decisions by direction and reason, doing nothing included", *OBJECT, "direction", "reason"
        )
        self.reversals = make.counter("reversals", "Changes of direction of the number of replicas", *OBJECT)
        self.desired_replicas = make.of_object("desired_replicas", "Replicas decided last")
        self.wanted_replicas = make.of_object("wanted_replicas", "Replicas that the signals ask for, before any bound")
        self.proposed_replicas = make.of_object("proposed_replicas", "Replicas that a signal proposes", "signal")
        self.min_replicas = make.of_object("min_replicas", "Lower bound of replicas at this moment, schedules included")
        self.max_replicas = make.of_object("max_replicas", "Upper bound of replicas at this moment, schedules included")
        self.mode = make.of_object("mode", "1, labelled with spec.autoscaling.mode", "mode")
        self.condition = make.of_object("condition", "Condition in status: 1 True, 0 False; no series: Unknown", "type")
        self.reconcile_failures = make.counter("reconcile_failures", "Reconciles that raised", *OBJECT)
        self.events_dropped = make.counter("events_dropped", "Events beyond an object's rate limit", *OBJECT)

    def _of_their_inputs(self, make: Make) -> None:
        self.queue_wait_p95_seconds = make.of_object(
            "queue_wait_p95_seconds", "Queue wait p95 over the last 15 s, seconds"
        )
        self.queue_wait_target_seconds = make.of_object(
            "queue_wait_target_seconds", "Queue wait p95 promised, in seconds"
        )
        self.arrivals = make.of_object("arrivals_per_second", "Requests that arrive a second")
        self.throughput = make.of_object("tokens_per_second", "Tokens computed a second, prompt and generated")
        self.demand = make.of_object("demand_tokens_per_second", "Tokens a second that arriving requests will need")
        self.capacity = make.of_object(
            "replica_capacity_tokens_per_second", "Learned work of one warm replica, tokens a second"
        )
        self.waiting = make.of_object("requests_waiting", "Requests that wait in all replicas")
        self.running = make.of_object("requests_running", "Requests that run in all replicas")
        self.asked_pods = make.of_object("asked_pods", "Ready pods of which the operator wants metrics")
        self.answered_pods = make.of_object("answered_pods", "Of those, pods whose metrics it has")
        self.silent_seconds = make.of_object(
            "silent_seconds", "Seconds for which no ready pod has answered; 0: one does"
        )
        self.scrape_failures = make.counter("scrape_failures", "Pods that did not answer a scrape", *OBJECT)

    def _of_pods(self, make: Make) -> None:
        self.ready_replicas = make.of_object("ready_replicas", "Replicas ready and routed")
        self.warm_replicas = make.of_object("warm_replicas", "Standby pods that could serve at once")
        self.pods = make.of_object("pods", "Pods by what they are for and what they are doing", "role", "phase")
        self.start_seconds = make.of_object(
            "start_seconds", "Seconds that a start is expected to take, as measured so far"
        )
        self.oldest_start_seconds = make.of_object(
            "oldest_start_seconds", "Seconds that the longest of the starts under way has taken; 0: no pod starts"
        )
        self.startup_seconds = make.histogram(
            "startup_seconds", "Seconds of a pod's start: each step, and the whole", START_SECONDS, *OBJECT, "step"
        )
        self.drain_timeouts = make.counter(
            "drain_timeouts", "Pods deleted with requests inside after drain.timeout", *OBJECT
        )
        self.rollout = make.of_object("rollout", "1, labelled with where the rollout stands", "state", "reason")
        self.rollout_steps = make.counter("rollout_steps", "Changes of a rollout's state", *OBJECT, "state", "reason")

    def forget(self, namespace: str, name: str) -> None:
        """Remove every series of an object that is gone, or that another operator looks after now."""
        for gauge in self._make.gauges:
            gauge.forget((namespace, name))
        for metric in self._make.counted:
            metric.remove_by_labels({"namespace": namespace, "name": name})
