"""A decision's record at a real API server: what the schema keeps of it gives the same decision again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import schema
from cluster import LocalCluster
from headrace_operator.decide import record
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision, decide
from headrace_operator.decide.situation import Situation, Stuck, Supply, look
from headrace_operator.decide.status import Tick, status
from observations import NOW, deployment, observed, scaling, signals

pytestmark = pytest.mark.cluster
EMPTY = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "InferenceDeployment",
    "metadata": {"name": "llama", "namespace": "default"},
    "spec": {"model": {"source": "pvc://models/llama"}},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("record"), nodes=()) as running:
        schema.install(running)
        running.kubectl("create", "-f", "-", stdin=json.dumps(EMPTY))
        yield running


def write(cluster: LocalCluster, decision: Decision, before: dict[str, Any]) -> dict[str, Any]:
    """As the operator does, and back as it reads it."""
    told = status(Tick(deployment(), "image", observed(4), decision, History(), NOW), before)
    patch = json.dumps({"status": told})
    name = ("inferencedeployment", "llama", "--subresource=status")
    cluster.kubectl("patch", *name, "--type=merge", "--patch", patch)
    stored: dict[str, Any] = json.loads(cluster.kubectl("get", *name[:2], "-o", "json"))["status"]
    return stored


def everything() -> Situation:
    """Every key has a value."""
    known = look(scaling(), observed(4), signals(4, load=0.4, throughput=1000 / 3), History(desired=4), NOW)
    return replace(
        known,
        policy=replace(known.policy, max_replicas=3, metrics_fallback=3, replicas=2, schedules=("office", "launch")),
        supply=Supply(3, (0, 12, 40), Stuck(1, "0/2 nodes are available"), Stuck(1, "no config.json")),
        peak=9,
        peak_ago=12.25,
        lowered_ago=0.5,
        silent_for=3.0,
        budget=7,
    )


def test_what_the_schema_keeps_gives_the_same_decision(cluster: LocalCluster) -> None:
    full = everything()
    stored = write(cluster, decide(full), {})
    assert record.situation(stored["lastDecision"]["inputs"]) == full
    assert record.situation(stored["lastChange"]["inputs"]) == full
    # What was known once and is unknown now leaves nothing behind.
    bare = replace(
        look(scaling(), observed(0), signals(0, load=None), History(), NOW), supply=Supply(0), lowered_ago=None
    )
    stored = write(cluster, decide(bare), stored)
    assert record.situation(stored["lastDecision"]["inputs"]) == bare
    assert stored["lastDecision"]["to"] == decide(bare).replicas
