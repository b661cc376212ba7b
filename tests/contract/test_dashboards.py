"""The dashboards that the chart ships are those of the code, and ask for nothing that nobody tells."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards.__main__ import BOARDS, PLACE, written
from dashboards.panels import Board
from headrace_operator.metrics import ObjectGauge, OperatorMetrics
from headrace_router.metrics import RouterMetrics
from headrace_server.metrics import ServerMetrics
from headrace_server.telemetry.gpu import GpuReading, GpuSeries
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "charts" / "headrace" / "files" / "alerts.yaml"
NAME = re.compile(r"\b(?:headrace|process)[_:][a-z0-9_:]+")
# Labels that begin like a metric.
LABELS = {"headrace_dev_deployment", "headrace_dev_router"}
SELECTED = re.compile(r"\b((?:headrace|process)[_:][a-z0-9_:]+)(?:\{([^}]*)\})?")
MATCHED = re.compile(r"(\w+) ?(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|group_left) ?\(([^)]*)\)")
# What scraping adds, as docs/operator-metrics.md and the chart's monitors say it.
SCRAPED = {"namespace", "pod", "instance", "job"}
ADDED = {
    "headrace_router_": {"headrace_dev_router"},
    "headrace_operator_": set[str](),
    "headrace_": {"headrace_dev_deployment"},
}


class BusyGpu:
    """Says everything that a GPU can say."""

    def read(self) -> GpuReading:
        return GpuReading(1.0, 1.0, 1.0, 1.0, dict.fromkeys(("sm_activity", "tensor_activity", "dram_activity"), 0.5))


@pytest.fixture(scope="module")
def told() -> set[str]:
    """Every name that a server, a router, an operator or a rule can tell."""
    registry = CollectorRegistry()
    OperatorMetrics(registry), ServerMetrics(registry), RouterMetrics(registry), ProcessCollector(registry=registry)
    names = {sample for collector in registry._collector_to_names for sample in names_of(collector)}
    gpu = names_of(GpuSeries(BusyGpu(), "GPU-0"))  # type: ignore[arg-type]
    rules = yaml.safe_load(ALERTS.read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    return names | gpu | recorded


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Of each name that a server, a router or an operator can tell, with those that scraping adds; of each rule's."""
    registry = CollectorRegistry()
    OperatorMetrics(registry), ServerMetrics(registry), RouterMetrics(registry), ProcessCollector(registry=registry)
    found = {}
    for collector in registry._collector_to_names:
        families = list(collector.describe()) if isinstance(collector, ObjectGauge) else [collector]
        own = {label for each in families for label in getattr(each, "_labelnames", ())}
        found |= {name: own | added(name) for name in names_of(collector)}
    found |= {name: {"gpu", *added(name)} for name in names_of(GpuSeries(BusyGpu(), "GPU-0"))}  # type: ignore[arg-type]
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return found | {rule["record"]: {"namespace", "name"} for rule in rules if "record" in rule}


def added(name: str) -> set[str]:
    kind = next((labels for beginning, labels in ADDED.items() if name.startswith(beginning)), set[str]())
    return SCRAPED | kind | ({"le"} if name.endswith("_bucket") else set())


def misnamed(expr: str, labels: dict[str, set[str]]) -> set[str]:
    """Labels that it asks for, and none of its series has."""
    selected = [(name, matchers) for name, matchers in SELECTED.findall(expr) if name not in LABELS]
    matched = [(name, label) for name, text in selected for label in MATCHED.findall(text)]
    asked = {f"{name}: {label}" for name, label in matched if label not in labels[name]}
    made = set(re.findall(r'label_(?:join|replace)\([^"]*"(\w+)"', expr))
    grouped = {label for found in GROUPED.findall(expr) for label in re.findall(r"\w+", found)} - made
    return asked | {label for label in grouped if not any(label in labels[name] for name, _ in selected)}


def names_of(collector: Collector) -> set[str]:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        family.name + ending for family in collector.collect() for ending in endings.get(family.type, ("",))
    }  # fmt: skip


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.file)
def test_what_is_committed_is_what_the_code_makes(board: Board) -> None:
    assert (PLACE / f"{board.file}.json").read_text() == written(board), "run `make generate`"


def test_no_other_dashboard_is_shipped() -> None:
    assert {file.stem for file in PLACE.iterdir()} == {board.file for board in BOARDS}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.file)
def test_grafana_can_tell_its_panels_apart_and_says_what_they_are_for(board: Board) -> None:
    made = json.loads(written(board))
    panels: list[dict[str, Any]] = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert made["uid"] == f"headrace-{board.file}"
    for panel in panels:
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.file)
def test_its_queries_ask_for_what_is_told(board: Board, told: set[str]) -> None:
    for query in board.queries:
        asked = set(NAME.findall(query.expr)) - LABELS
        assert asked <= told | {"ALERTS"}, query.expr


def test_dashboards_alerts_and_runbooks_ask_for_labels_that_there_are(labels: dict[str, set[str]]) -> None:
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = [query.expr for board in BOARDS for query in board.queries]
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "runbooks").glob("*.md"))
    runbooks = re.findall(r"```promql\n(.*?)\n```", pages, re.DOTALL)
    assert runbooks
    exprs = [expr for expr in (*rules, *panels, *runbooks) if "__name__" not in expr]
    assert {expr: wrong for expr in exprs if (wrong := misnamed(expr, labels))} == {}


def test_alerts_and_runbooks_ask_for_what_is_told(told: set[str]) -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        notes = " ".join(rule.get("annotations", {}).values())
        asked = set(NAME.findall(re.sub(r"https?://\S+", "", f"{rule['expr']} {notes}"))) - LABELS
        assert asked <= told, rule
        assert asked, rule
