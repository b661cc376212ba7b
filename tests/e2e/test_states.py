"""What a person sees while something is not as it should be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import LocalCluster
from deployments import condition, manifest, pods, status, wait_ready

pytestmark = pytest.mark.e2e
WRONG_DEVICE = "headrace-wrong-device:1"  # of the fixture: no real server computes elsewhere than it is told
CRASHING = "headrace-crashing:1"  # likewise


@pytest.fixture
def applied(cluster: LocalCluster) -> Iterator[Callable[..., str]]:
    """Applies a manifest that is not only about scaling; it is gone with its pods when the test is over."""
    names: list[str] = []

    def apply(name: str, autoscaling: dict[str, Any], **spec: Any) -> str:
        names.append(name)
        cluster.apply(manifest(name, autoscaling=autoscaling, **spec))
        return name

    yield apply
    for name in names:
        cluster.kubectl("delete", "infdep", name)
        cluster.wait(f"pods of {name} gone", lambda name=name: not pods(cluster, name))


def phases(cluster: LocalCluster, name: str) -> dict[str, int]:
    counted = status(cluster, name).get("podPhases", [])
    return {f"{entry['role']} {entry['phase']}": entry["pods"] for entry in counted}


def wait_for(cluster: LocalCluster, name: str, kind: str, reason: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.wait(
        f"{kind} says {reason}",
        lambda: (seen := condition(cluster, name, kind))["reason"] == reason and seen,
    )
    return found


def test_a_start_is_told_step_by_step_and_timed(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=1)
    seen: list[str] = []

    def is_ready() -> bool:
        reason = condition(cluster, name, "Ready")["reason"]
        if reason not in seen:
            seen.append(reason)
        return bool(reason == "EnoughReady")

    cluster.wait("it is ready", is_ready)
    assert "Loading" in seen
    order = ["TooFewReady", "Starting", "Pulling", "Loading", "WarmingUp", "EnoughReady"]
    assert seen == [reason for reason in order if reason in seen]
    steps = cluster.wait("the ledger", lambda: status(cluster, name)["startup"].get("phases"))
    assert [step["phase"] for step in steps] == ["scheduled", "pulled", "weights", "warmed", "ready"]
    whole = sum(float(step["p50Seconds"]) for step in steps)
    assert whole == pytest.approx(float(status(cluster, name)["startup"]["p50Seconds"]), abs=2.0)

    (serving,) = pods(cluster, name)
    cluster.kubectl("delete", "pod", serving["metadata"]["name"], "--force", "--grace-period=0")
    cluster.wait("Ready says no", lambda: condition(cluster, name, "Ready")["status"] == "False")


def test_a_full_cluster_is_told_as_waiting_for_a_gpu(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=5, maxReplicas=6)  # the nodes have four GPUs together
    cluster.wait("five pods", lambda: len(pods(cluster, name)) == 5)
    ready = wait_for(cluster, name, "Ready", "WaitingForGPU")
    assert "Insufficient nvidia.com/gpu" in ready["message"]
    # The scheduler may hear of a place that became free after it has looked for it.
    cluster.wait("one of them alone", lambda: phases(cluster, name)["replica WaitingForGPU"] == 1)


def test_an_image_that_does_not_exist_is_told(cluster: LocalCluster, applied: Callable[..., str]) -> None:
    name = applied("no-image", {"minReplicas": 1}, image="nowhere/server:1")
    cluster.wait("a pod", lambda: pods(cluster, name))
    assert "nowhere/server:1" in wait_for(cluster, name, "Degraded", "ImagePullFailed")["message"]
    assert condition(cluster, name, "Ready")["reason"] == "ImagePullFailed"


def test_a_server_that_ends_again_and_again_is_told_with_its_last_words(
    cluster: LocalCluster, applied: Callable[..., str]
) -> None:
    name = applied("crashing", {"minReplicas": 1}, image=CRASHING)

    def has_crashed_twice() -> bool:
        return bool(pods(cluster, name)[0]["status"]["containerStatuses"][0]["restartCount"] >= 2)

    cluster.wait("two restarts", has_crashed_twice)
    degraded = wait_for(cluster, name, "Degraded", "CrashLooping")
    assert "exit status 3" in degraded["message"]
    assert "no device answers" in degraded["message"]
    ready = wait_for(cluster, name, "Ready", "CrashLooping")
    assert ready["status"] == "False"
    assert phases(cluster, name) == {"replica CrashLooping": 1}  # its successor would do the same


def test_a_quota_that_refuses_pods_is_told_and_no_failure(cluster: LocalCluster, applied: Callable[..., str]) -> None:
    cluster.apply({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus", "namespace": "default"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "1"}},
    })  # fmt: skip
    try:
        name = applied("quota", {"minReplicas": 2, "maxReplicas": 2})
        refused = wait_for(cluster, name, "GPUCapacity", "QuotaExceeded")
        assert "exceeded quota: gpus" in refused["message"]
        assert refused["status"] == "False"
        cluster.wait("one serves", lambda: status(cluster, name).get("readyReplicas") == 1)
        assert condition(cluster, name, "AbleToScale")["reason"] == "QuotaExceeded"
    finally:
        cluster.kubectl("delete", "resourcequota", "gpus")
    wait_ready(cluster, name, 2)
    assert condition(cluster, name, "GPUCapacity")["status"] == "True"


def test_a_pod_on_the_wrong_device_is_not_routed_and_not_multiplied(
    cluster: LocalCluster, applied: Callable[..., str]
) -> None:
    model = {"source": "pvc://models/scripture-5m", "device": "cuda", "dtype": "float32"}
    name = applied("wrong-device", {"minReplicas": 1, "maxReplicas": 2}, image=WRONG_DEVICE, model=model)
    degraded = wait_for(cluster, name, "Degraded", "DeviceMismatch")
    assert "computes on cpu, spec.model.device is cuda" in degraded["message"]
    cluster.wait(
        "it is not routed",
        lambda: [pod["metadata"]["labels"]["headrace.dev/routable"] for pod in pods(cluster, name)] == ["false"],
    )
    assert condition(cluster, name, "Ready")["reason"] == "DeviceMismatch"
    assert status(cluster, name)["readyReplicas"] == 0
