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
    metrics.model_held.labels("small", "default/a").set(5)
    metrics.model_oldest_held.labels("small", "default/a").set(1.5)
    metrics.model_held.labels("large", "team-b/c").set(7)
    metrics.model_oldest_held.labels("large", "team-b/c").set(3.5)
    told = routers.reading(generate_latest(registry).decode())
    assert told.total == RouterSample(12, 3.5)
    assert told.deployments == {"default/a": RouterSample(5, 1.5), "team-b/c": RouterSample(7, 3.5)}
