"""Mode External under the cluster's own HorizontalPodAutoscaler: metric, scale subresource, spec.replicas, pods."""

from collections.abc import Callable
from typing import Any

import pytest
from cluster import LocalCluster
from deployments import condition, pods, status, wait_ready
from external_metrics import ExternalMetrics

pytestmark = pytest.mark.e2e


def autoscaler(name: str) -> dict[str, Any]:
    """One replica for every ten of the queue."""
    target = {"type": "AverageValue", "averageValue": "10"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 9,
            "metrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }


def test_an_hpa_drives_a_deployment_in_mode_external_within_its_bounds(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    name = deploy(minReplicas=1, maxReplicas=3, mode="External")
    wait_ready(cluster, name, 1)
    waits = condition(cluster, name, "ScalingActive")
    assert waits["status"] == "False"
    assert "`kubectl scale infdep/NAME --replicas=N`" in waits["message"]
    cluster.kubectl("scale", f"infdep/{name}", "--replicas=1")
    with ExternalMetrics(cluster, value=15) as queue:
        cluster.apply(autoscaler(name))
        try:
            wait_ready(cluster, name, 2)
            said = status(cluster, name)["lastDecision"]
            assert (said["reason"], said["to"]) == ("External", 2)
            assert cluster.object("infdep", name)["spec"]["replicas"] == 2
            assert condition(cluster, name, "ScalingConflict")["reason"] == "Undisputed"

            queue.value = 70
            wait_ready(cluster, name, 3)
            cluster.wait(
                "the HPA wants more than is allowed",
                lambda: cluster.object("infdep", name)["spec"]["replicas"] == 7,
            )
            cluster.wait("it says so", lambda: condition(cluster, name, "ScalingLimited")["reason"] == "AtMaximum")

            queue.value = 5
            cluster.wait("one is left", lambda: len(pods(cluster, name)) == 1)
        finally:
            cluster.kubectl("delete", "hpa", name)
