"""What the operator reads of a router is what a router writes."""

from headrace_operator.decide.values import RouterSample
from headrace_operator.observe import routers
from headrace_router.metrics import RouterMetrics
from prometheus_client import CollectorRegistry, generate_latest


def test_the_operator_reads_what_a_router_holds() -> None:
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    metrics.held.set(12)
    metrics.oldest_held.set(3.5)
    assert routers.sample(generate_latest(registry).decode(), 0.0) == RouterSample(12, 3.5)
