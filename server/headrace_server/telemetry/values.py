"""What a metric is now, read the way a scrape reads it."""

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample


def samples_of(metric: MetricWrapperBase) -> Iterator[Sample]:
    """Without the moments at which series were made."""
    for family in metric.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield sample


def value_of(metric: MetricWrapperBase, **labels: str) -> float | None:
    """Of a gauge or counter: the sum of its series that have these labels; None when there is none."""
    found = [sample.value for sample in samples_of(metric) if labels.items() <= sample.labels.items()]
    return sum(found) if found else None
