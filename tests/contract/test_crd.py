"""The custom resource at a real API server: what is refused, in whose words, and what the defaults are."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import CommandFailed, LocalCluster
from headrace_operator.service import InferenceDeployment

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("crd"), nodes=()) as running:
        running.apply(ROOT / "crds" / "inferencedeployments.headrace.dev.yaml")
        running.kubectl("wait", "--for=condition=Established", "crd/inferencedeployments.headrace.dev", "--timeout=30s")
        yield running


def manifest(changes: dict[str, Any] | None = None, name: str = "chat") -> dict[str, Any]:
    """A minimal manifest, with values at dotted paths changed; None takes a field away."""
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": "pvc://models/llama"}},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place: dict[str, Any] = body
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return deepcopy(body)


REFUSED = [
    (
        "min above max",
        {"spec.autoscaling.minReplicas": 5, "spec.autoscaling.maxReplicas": 2},
        "spec.autoscaling.minReplicas",
    ),
    ("no replicas", {"spec.autoscaling.minReplicas": 0}, "spec.autoscaling.minReplicas"),
    ("an unknown field", {"spec.autoscaling.minReplica": 2}, "spec.autoscaling.minReplica"),
    ("a negative window", {"spec.autoscaling.scaleDownWindow": "-10s"}, "spec.autoscaling.scaleDownWindow"),
    ("a window without unit", {"spec.autoscaling.scaleDownWindow": "10"}, "spec.autoscaling.scaleDownWindow"),
    ("a target of zero", {"spec.autoscaling.targets.queueWaitP95": "0s"}, "spec.autoscaling.targets.queueWaitP95"),
    ("more than all", {"spec.autoscaling.targets.utilization": "101%"}, "spec.autoscaling.targets.utilization"),
    ("an unknown mode", {"spec.autoscaling.mode": "Sometimes"}, "spec.autoscaling.mode"),
    ("no model", {"spec.model": None}, "spec.model"),
    ("no source", {"spec.model": {"dtype": "float32"}}, "spec.model.source"),
    ("another source", {"spec.model.source": "s3://bucket/x"}, "spec.model.source"),
    ("a source that climbs", {"spec.model.source": "pvc://models/../etc"}, "spec.model.source"),
    ("cuda without a GPU", {"spec.resources.gpus": 0}, "spec.resources.gpus"),
    ("no quantity", {"spec.resources.memory": "much"}, "spec.resources.memory"),
    ("a negative drain", {"spec.drain.timeout": "-1s"}, "spec.drain.timeout"),
    ("a name that leaves no room for pods", {"metadata.name": "a" * 47}, "metadata.name"),
]


@pytest.mark.parametrize(("changes", "field"), [pytest.param(c, f, id=name) for name, c, f in REFUSED])
def test_a_bad_manifest_is_refused_by_the_name_of_its_field(
    cluster: LocalCluster, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(CommandFailed) as refused:
        cluster.apply(manifest(changes))
    assert field in str(refused.value)
    assert not cluster.kubectl("get", "infdep", "--ignore-not-found").strip()


def test_the_defaults_are_all_that_the_operator_needs(cluster: LocalCluster) -> None:
    cluster.apply(manifest())
    try:
        parsed = InferenceDeployment.from_body(cluster.object("infdep", "chat"))
    finally:
        cluster.kubectl("delete", "infdep", "chat")
    assert (parsed.scaling.min_replicas, parsed.scaling.max_replicas) == (1, 1)
    assert (parsed.scaling.queue_wait_target, parsed.scaling.utilization) == (0.5, 0.7)
    assert (parsed.scaling.scale_down_window, parsed.drain_timeout) == (300.0, 120.0)
    assert (parsed.model.device, parsed.model.dtype, parsed.resources.gpus) == ("cuda", "bfloat16", 1)
    assert (parsed.batching.max_running, parsed.batching.max_tokens_per_step, parsed.batching.max_waiting) == (
        64,
        2048,
        1024,
    )


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_accepted(cluster: LocalCluster, file: Path) -> None:
    cluster.apply(file)
    for body in yaml.safe_load_all(file.read_text()):
        stored = cluster.object("infdep", body["metadata"]["name"])
        assert InferenceDeployment.from_body(stored).name == body["metadata"]["name"]
        cluster.kubectl("delete", "infdep", body["metadata"]["name"])


def test_the_scale_subresource_writes_replicas_and_nothing_else(cluster: LocalCluster) -> None:
    cluster.apply(manifest({"spec.autoscaling.maxReplicas": 4, "spec.autoscaling.mode": "External"}, name="scaled"))
    try:
        before = cluster.object("infdep", "scaled")["spec"]
        cluster.kubectl("scale", "infdep", "scaled", "--replicas=3")
        assert cluster.object("infdep", "scaled")["spec"] == before | {"replicas": 3}
        with pytest.raises(CommandFailed, match=r"spec\.replicas"):
            cluster.kubectl("scale", "infdep", "scaled", "--replicas=0")
    finally:
        cluster.kubectl("delete", "infdep", "scaled")
