"""`headrace explain` and `report` on a deployment that lives: the record says what happened, the bundle holds it."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import LocalCluster
from deployments import pods, wait_ready
from tools import headrace, kubectl_headrace

pytestmark = pytest.mark.e2e


def test_a_decision_is_explained_and_reported(
    cluster: LocalCluster, deploy: Callable[..., str], tmp_path: Path
) -> None:
    name = deploy(minReplicas=1, maxReplicas=2)
    wait_ready(cluster, name, 1)

    said = kubectl_headrace(cluster, "explain", name)
    assert said.status == 0, said.out + said.err
    assert "The record says the same." in said.out
    told = json.loads(headrace(cluster, "explain", name, "-o", "json").out)
    assert told["agrees"]
    assert told["computed"]["to"] == 1

    saved = tmp_path / "object.yaml"
    saved.write_text(cluster.kubectl("get", "infdep", name, "-o", "yaml"))
    away = headrace(cluster, "explain", "-f", str(saved), KUBECONFIG="/nothing")
    assert (away.status, "The record says the same." in away.out) == (0, True)

    (pod,) = pods(cluster, name)
    file = tmp_path / "report.tar.gz"
    assert headrace(cluster, "report", name, "-o", str(file)).status == 0
    with tarfile.open(file) as archive:
        texts = {path.partition("/")[2]: archive.extractfile(path).read().decode() for path in archive.getnames()}  # type: ignore[union-attr]
    assert "The record says the same." in texts["explain.txt"]
    assert texts[f"logs/{pod['metadata']['name']}.log"]
    assert any(path.startswith("operator/") and path.endswith(".log") for path in texts)
    assert "PodCreated" in texts["events.yaml"]
    assert "ControllerRevision" in texts["revisions.yaml"] or "pod" in texts["revisions.yaml"]
    assert all(pod["metadata"]["uid"] not in text for text in texts.values())
