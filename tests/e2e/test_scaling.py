"""The queue scales, and nothing that goes wrong meanwhile loses a request."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cluster import LocalCluster
from demo import story
from demo.users import Answers, Habit, conversing
from deployments import expositions, manifest, operator_process, pods, status, wait_ready

pytestmark = pytest.mark.e2e
SHORT = Habit(story.PROMPTS, max_new_tokens=24)


def uids(cluster: LocalCluster, name: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(cluster, name)}


def restarts(cluster: LocalCluster, name: str) -> int:
    return sum(s["restartCount"] for pod in pods(cluster, name) for s in pod["status"]["containerStatuses"])


async def under_load(cluster: LocalCluster, name: str, meanwhile: Coroutine[Any, Any, None], users: int = 4) -> Answers:
    """Users talk until what happens meanwhile is over."""
    async with conversing(story.doors(cluster, name), users, SHORT) as answers:
        await meanwhile
    return answers


def test_the_queue_scales_up_and_silence_scales_down(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=3)
    wait_ready(cluster, name, 1)
    outcome = asyncio.run(story.rush_and_rest(cluster, print, users=12, rush=30, rest=600, name=name))
    assert outcome.broken_promises == []
    decisions = status(cluster, name)["decisions"]
    assert {"QueueWaitHigh", "LoadRose"} & {decision["reason"] for decision in decisions}
    assert decisions[-1]["reason"] == "LoadFell"
    assert all(str(decision["to"]) in decision["message"] for decision in decisions)
    turned = re.compile(rf'headrace_operator_reversals_total{{name="{name}",namespace="default"}} ([1-9])\.0')
    assert any(turned.search(told) for told in expositions(cluster)), "up and down again is a change of direction"


def test_a_killed_operator_is_not_noticed(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=2, scaleDownWindow="60s")
    wait_ready(cluster, name, 1)

    async def kill() -> None:
        await asyncio.sleep(2)
        before, killed = uids(cluster, name), operator_process(cluster)
        killed.kill()
        await asyncio.sleep(1)
        assert before <= uids(cluster, name)

        def is_back() -> bool:
            return operator_process(cluster).pid != killed.pid

        await asyncio.to_thread(cluster.wait, "the operator is back", is_back)
        await asyncio.to_thread(wait_ready, cluster, name, 2)  # the load goes on: scaling does, too

    answers = asyncio.run(under_load(cluster, name, kill(), users=10))
    assert answers.sent > 0
    assert dict(answers.failures) == {}
    assert restarts(cluster, name) == 0


def test_a_lost_replica_is_replaced(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=2, maxReplicas=2)
    wait_ready(cluster, name, 2)
    lost, kept = sorted(pod["metadata"]["name"] for pod in pods(cluster, name))
    before = uids(cluster, name)
    cluster.kubectl("delete", "pod", lost, "--force", "--grace-period=0")
    cluster.wait("the pod is gone", lambda: uids(cluster, name) - before)
    wait_ready(cluster, name, 2)
    assert kept in {pod["metadata"]["name"] for pod in pods(cluster, name)}


def test_a_new_revision_replaces_the_old_one(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=2, maxReplicas=2)
    wait_ready(cluster, name, 2)
    before, old = uids(cluster, name), status(cluster, name)["revision"]

    async def change() -> None:
        body = manifest(name, autoscaling={"minReplicas": 2, "maxReplicas": 2}, batching={"maxRunning": 3})
        await asyncio.to_thread(cluster.apply, body)

        def is_replaced() -> bool:
            return not before & uids(cluster, name) and len(uids(cluster, name)) == 2

        await asyncio.to_thread(cluster.wait, "all pods are new", is_replaced)
        await asyncio.to_thread(wait_ready, cluster, name, 2)

    answers = asyncio.run(under_load(cluster, name, change(), users=2))
    assert answers.sent > 0
    assert dict(answers.failures) == {}
    assert status(cluster, name)["revision"] != old


def test_applying_the_same_manifest_again_moves_no_replica(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=3)
    wait_ready(cluster, name, 1)
    before = uids(cluster, name)
    for _ in range(5):
        deploy(minReplicas=1, maxReplicas=3)
    cluster.wait("a later look", lambda: status(cluster, name)["observedGeneration"] >= 1)
    assert uids(cluster, name) == before
    assert status(cluster, name)["desiredReplicas"] == 1
