"""Who answered how much, and what it cost: the metrics of the models as a table for people, on /models."""

from collections import defaultdict

from prometheus_client import CollectorRegistry

COLUMNS = ("model", "requests", "share", "replica hours", "cost", "cost of 1000")
NOT_YET = "-"


def report(registry: CollectorRegistry) -> str:
    """Since this router began. Requests are this router's; replicas and their cost are everybody's."""
    requests, seconds, cost, rules, outcomes = (
        _sums(registry, *what)
        for what in (
            ("headrace_router_model_requests", "model"), ("headrace_router_model_replica_seconds", "model"),
            ("headrace_router_model_cost", "model"), ("headrace_router_model_requests", "model", "rule"),
            ("headrace_router_fallbacks", "outcome"),
        )
    )  # fmt: skip
    total = sum(requests.values())
    rows: list[tuple[str, ...]] = [
        (
            name[0] or NOT_YET, f"{requests[name]:.0f}", f"{requests[name] / total:.1%}" if total else NOT_YET,
            f"{seconds[name] / 3600:.3f}", f"{cost[name]:.4f}",
            f"{1000 * cost[name] / requests[name]:.4f}" if requests[name] else NOT_YET,
        )
        for name in sorted({*requests, *seconds})
    ]  # fmt: skip
    lines = [*_table(rows), "", *(f"{model} by rule {rule}: {count:.0f}" for (model, rule), count in rules.items())]
    return "\n".join([*lines, *(f"fallback, {name}: {count:.0f}" for (name,), count in outcomes.items()), ""])


def _sums(registry: CollectorRegistry, family: str, *labels: str) -> defaultdict[tuple[str, ...], float]:
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for metric in registry.collect():
        for sample in metric.samples if metric.name == family else ():
            if sample.name.endswith("_total"):
                sums[tuple(sample.labels[label] for label in labels)] += sample.value
    return sums


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (COLUMNS, *rows)]
