"""Every series that is counted by a label, from the start: a rate needs the zero before the first event."""

from itertools import product

from headrace_server.metrics import ServerMetrics
from headrace_server.request import Finish, Phase, Priority
from headrace_server.tenants import TenantClass


def first_zeros(metrics: ServerMetrics) -> None:
    """Of an engine's counters and histograms, whatever it computes."""
    for priority in Priority:
        for counter in (
            metrics.requests_received_by_class, metrics.requests_refused_by_class, metrics.requests_retried_by_class,
            metrics.requests_finished_by_class, metrics.finished_request_tokens_by_class, metrics.step_tokens,
        ):  # fmt: skip
            counter.labels(priority)
    for outcome in Finish:
        metrics.requests_finished.labels(outcome)
    for phase in Phase:
        metrics.requests_expired.labels(phase)
    for labels in product(Priority, TenantClass):
        metrics.queue_wait_seconds.labels(*labels)
