"""docs/operator-metrics.md has every series that an operator can have, with type, labels and meaning, and no other."""

import re
from pathlib import Path

from headrace_operator.metrics import OBJECT, OperatorMetrics
from prometheus_client import CollectorRegistry

PAGE = Path(__file__).parents[2] / "docs" / "operator-metrics.md"
ROW = re.compile(r"^\| `headrace_operator_.*$", re.MULTILINE)
WORDS = {"gauge": "", "counter": "_total", "histogram": ""}


def rows() -> list[str]:
    """As the page's table has them: series, type, whether of a deployment, labels beside, meaning."""
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry)
    found = []
    for collector in registry._collector_to_names:
        (family,) = collector.describe()
        all_labels = collector._labelnames if hasattr(collector, "_labelnames") else family._labelnames
        of = "deployment" if set(OBJECT) <= set(all_labels) else "operator"
        labels = " ".join(f"`{label}`" for label in all_labels if label not in OBJECT)
        name = family.name + WORDS[family.type]
        found.append(f"| `{name}` | {family.type} | {of} | {labels} | {family.documentation} |")
    assert len(found) > len(vars(metrics)) - 2, "every series is registered"
    return found


def test_the_page_names_every_series_and_no_other() -> None:
    assert ROW.findall(PAGE.read_text()) == rows()
