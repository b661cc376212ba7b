"""The metrics of the router are those that its page names."""

import re
from pathlib import Path

from headrace_router.metrics import RouterMetrics
from prometheus_client import CollectorRegistry

PAGE = Path(__file__).parents[2] / "docs" / "router.md"


def test_the_page_names_every_metric_with_its_labels_and_no_other() -> None:
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    labels = {each._name: each._labelnames for each in vars(metrics).values()}
    counters = {family.name for family in registry.collect() if family.type == "counter"}
    made = {
        f"{name}{'_total' if name in counters else ''}{'{' + ','.join(names) + '}' if names else ''}"
        for name, names in labels.items()
    }
    table = PAGE.read_text().partition("\n## Metrics\n")[2]
    assert set(re.findall(r"`(headrace_router_[a-z_]+(?:\{[a-z,]+\})?)`", table)) == made
