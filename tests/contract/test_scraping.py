"""The chart's PodMonitors choose and label what the page's scrape configuration does: dashboards and alerts need it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.binaries import ensure
from prometheus_server import documented

CHART = Path(__file__).parents[2] / "charts" / "headrace"
MONITORS = ",".join(
    f"monitoring.{kind}.enabled=true" for kind in ("podMonitor", "serverPodMonitor", "routerPodMonitor")
)
WHOSE = "app.kubernetes.io/name"
OF_A_POD = "__meta_kubernetes_pod_label_"


@pytest.fixture(scope="module")
def monitors() -> dict[str, dict[str, Any]]:
    """Specs by whose pods they scrape."""
    command = [str(ensure(lambda line: None).helm), "template", "headrace", str(CHART), "--set", MONITORS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [body["spec"] for body in yaml.safe_load_all(done.stdout) if body and body["kind"] == "PodMonitor"]
    return {spec["selector"]["matchLabels"][WHOSE]: spec for spec in found}


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    """Of the page, by whose pods they keep."""
    return {job["relabel_configs"][0]["regex"].partition(";")[0]: job for job in documented()["scrape_configs"]}


def test_both_choose_the_same_pods(monitors: dict[str, dict[str, Any]], jobs: dict[str, dict[str, Any]]) -> None:
    assert set(monitors) == set(jobs) == {"headrace-operator", "headrace-server", "headrace-router"}
    for whose, job in jobs.items():
        port = job["relabel_configs"][0]["regex"].partition(";")[2]
        assert monitors[whose]["podMetricsEndpoints"][0]["port"] == port


def test_both_keep_or_give_the_labels_that_queries_name(
    monitors: dict[str, dict[str, Any]], jobs: dict[str, dict[str, Any]]
) -> None:
    for whose, job in jobs.items():
        honoured = monitors[whose]["podMetricsEndpoints"][0].get("honorLabels", False)
        assert honoured == job.get("honor_labels", False), whose
        of_pods = {
            source.removeprefix(OF_A_POD)
            for relabel in job["relabel_configs"]
            for source in relabel["source_labels"]
            if source.startswith(OF_A_POD) and "target_label" in relabel
        }
        given = {label.replace(".", "_").replace("/", "_") for label in monitors[whose].get("podTargetLabels", ())}
        assert of_pods <= given, whose
