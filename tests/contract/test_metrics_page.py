"""docs/metrics.md names every series that a server can have, with its type and labels, and no other."""

import re
from pathlib import Path

import pytest
from headrace_server.metrics import GEN_AI, ServerMetrics
from headrace_server.telemetry.aliases import VllmNames
from headrace_server.telemetry.gpu import GpuReading, GpuSeries
from headrace_server.telemetry.recent import Recent
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([a-z_]+(?::[a-z0-9_]+)?)` \| (gauge|counter|histogram) \|(.*)$", re.MULTILINE)
REFERENCE = re.compile(r"`((?:headrace|gen_ai_server|vllm)[_:][a-z0-9_:]+)`")


class BusyGpu:
    """Says everything that a GPU can say."""

    def read(self) -> GpuReading:
        names = ("sm_activity", "sm_occupancy", "tensor_activity", "dram_activity")
        return GpuReading(1.0, 1.0, 1.0, 1.0, dict.fromkeys(names, 0.5))


def name_of(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.fixture(scope="module")
def exported() -> dict[str, tuple[str, set[str]]]:
    """Name -> type and labels, with all that can be known."""
    registry, times = CollectorRegistry(), iter((0.0, 20.0))
    metrics = ServerMetrics(registry)
    found = {
        name_of(next(iter(series.collect()))): (series._type, set(series._labelnames))
        for series in vars(metrics).values()
        if hasattr(series, "_labelnames")
    }
    recent = Recent(metrics, lambda: next(times), hour_price=1.0, on_gpu=True)
    list(recent.collect())
    metrics.kv_pages_total.set(1)
    for counter in (metrics.prompt_tokens, metrics.prefix_cache_queries, metrics.step_tokens.labels("standard")):
        counter.inc()
    metrics.device_peak_flops.labels("bfloat16").set(1)
    metrics.device_peak_bytes.labels("cuda").set(1)
    for collector in (recent, GpuSeries(BusyGpu(), "GPU-0"), VllmNames(metrics, "tiny")):  # type: ignore[arg-type]
        for family in collector.collect():
            labels = {label for sample in family.samples for label in sample.labels} - {"le", "model_name", "engine"}
            found[name_of(family)] = (family.type, labels)
    return found


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str]]:
    """Name -> type and the rest of the row."""
    found = ROW.findall(PAGE.read_text())
    assert len({name for name, _, _ in found}) == len(found), "a series has two rows"
    return {name: (kind, rest) for name, kind, rest in found}


def test_the_page_names_every_series_and_no_other(
    exported: dict[str, tuple[str, set[str]]], rows: dict[str, tuple[str, str]]
) -> None:
    assert {name: kind for name, (kind, _) in rows.items()} == {name: kind for name, (kind, _) in exported.items()}


def test_the_page_says_the_unit_and_the_labels_of_what_is_ours(
    exported: dict[str, tuple[str, set[str]]], rows: dict[str, tuple[str, str]]
) -> None:
    ours = {name: rest for name, (_, rest) in rows.items() if name.startswith("headrace_")}
    told = {name: set(re.findall(r"`([a-z_]+)`", rest.split("|")[1])) for name, rest in ours.items()}
    assert told == {name: labels for name, (_, labels) in exported.items() if name in ours}
    assert all(rest.split("|")[0].strip() for rest in ours.values())
    assert all(f"`{label}`" in PAGE.read_text() for label in GEN_AI)


def test_the_text_refers_to_series_that_are_there(rows: dict[str, tuple[str, str]]) -> None:
    referred = set(REFERENCE.findall(PAGE.read_text()))
    assert {name for name in referred if name not in rows and f"{name}_total" not in rows} == set()
