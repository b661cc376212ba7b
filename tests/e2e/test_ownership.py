"""Who says how many: the manifest, however often applied, the scale subresource in mode External, and nobody else."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from cluster import LocalCluster
from demo import story
from demo.users import Habit, converse_during
from deployments import condition, manifest, pods, status, wait_ready
from tools import headrace

pytestmark = pytest.mark.e2e
RE_APPLIES = 100


def uids(cluster: LocalCluster, name: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(cluster, name)}


def wait_conflict(cluster: LocalCluster, name: str, status: str, reason: str) -> str:
    """The message, once the condition says so."""

    def told() -> str | None:
        found = condition(cluster, name, "ScalingConflict")
        return found["message"] if (found["status"], found["reason"]) == (status, reason) else None

    return str(cluster.wait(f"ScalingConflict={status} {reason}", told))


def test_a_hundred_applies_while_it_scales_change_nothing(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    """Pods only come while the queue is long, whoever applies the manifest meanwhile; the spec stays as it was."""
    name = deploy(minReplicas=1, maxReplicas=3, scaleDownWindow="300s")
    wait_ready(cluster, name, 1)
    generation = cluster.object("infdep", name)["metadata"]["generation"]
    seen: list[set[str]] = []
    desired: list[int] = []

    def apply_again() -> None:
        for number in itertools.count():
            deploy(minReplicas=1, maxReplicas=3, scaleDownWindow="300s")
            if number % 10 == 0:
                seen.append(uids(cluster, name))
                desired.append(status(cluster, name)["desiredReplicas"])
            if number >= RE_APPLIES and max(desired) > 1:  # it scaled meanwhile, or this would prove nothing
                return

    habit = Habit(story.PROMPTS, max_new_tokens=24)
    answers = asyncio.run(converse_during(story.doors(cluster, name), 10, apply_again, habit))
    assert dict(answers.failures) == {}
    assert all(before <= after for before, after in itertools.pairwise(seen)), "an apply took a pod away"
    assert desired == sorted(desired)
    assert cluster.object("infdep", name)["metadata"]["generation"] == generation


def test_a_number_set_by_hand_is_told_and_only_external_follows_it(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    name = deploy(minReplicas=1, maxReplicas=2)
    wait_ready(cluster, name, 1)
    before = uids(cluster, name)
    wait_conflict(cluster, name, "False", "Undisputed")

    cluster.kubectl("scale", f"infdep/{name}", "--replicas=2")
    message = wait_conflict(cluster, name, "True", "ForeignReplicas")
    assert "scale subresource" in message
    assert "to 2" in message
    assert "set spec.autoscaling.mode to External" in message
    assert uids(cluster, name) == before

    def is_told() -> bool:
        events = cluster.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json")
        return "ScalingConflict" in {event["reason"] for event in json.loads(events)["items"]}

    cluster.wait("its event", is_told)

    cluster.kubectl(
        "patch", "infdep", name, "--type=merge", "--field-manager=somebody", "-p", '{"spec":{"replicas":1}}'
    )
    cluster.wait("the name", lambda: "somebody set" in condition(cluster, name, "ScalingConflict")["message"])
    assert uids(cluster, name) == before

    assert headrace(cluster, "resume", name, "--mode", "External").status == 0
    wait_conflict(cluster, name, "False", "Undisputed")
    cluster.kubectl("scale", f"infdep/{name}", "--replicas=2")
    wait_ready(cluster, name, 2)
    assert status(cluster, name)["lastDecision"]["reason"] == "External"
    assert before < uids(cluster, name)


def autoscaler(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"{name}-hpa", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "1"}},
                }
            ],
        },
    }


def test_a_foreign_autoscaler_and_a_hand_on_a_pod_are_told(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=2)
    wait_ready(cluster, name, 1)
    (pod,) = pods(cluster, name)
    cluster.apply(autoscaler(name))
    try:
        assert f"HorizontalPodAutoscaler {name}-hpa" in wait_conflict(cluster, name, "True", "ForeignAutoscaler")
    finally:
        cluster.kubectl("delete", "hpa", f"{name}-hpa")
    wait_conflict(cluster, name, "False", "Undisputed")

    cluster.kubectl("label", "pod", pod["metadata"]["name"], "headrace.dev/ordinal=7", "--overwrite")
    message = wait_conflict(cluster, name, "True", "ForeignEdit")
    assert "kubectl-label changed metadata.labels.headrace.dev/ordinal" in message
    assert pod["metadata"]["name"] in message
    assert pods(cluster, name)[0]["metadata"]["labels"]["headrace.dev/ordinal"] == "7", "reported, not fought"


def test_a_paused_deployment_stays_and_a_resumed_one_goes_on(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=2)
    wait_ready(cluster, name, 1)
    assert headrace(cluster, "pause", name).status == 0

    def reason() -> str:
        return str(status(cluster, name)["lastDecision"]["reason"])

    cluster.wait("paused", lambda: reason() == "Paused")
    cluster.apply(manifest(name, autoscaling={"minReplicas": 1, "maxReplicas": 2}))  # names no mode: the pause stays
    assert reason() == "Paused"
    assert headrace(cluster, "resume", name).status == 0
    cluster.wait("resumed", lambda: reason() != "Paused")
