"""A standby that serves at once, a replacement that is ready before a pod is lost, a drain that loses nothing."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cluster import LocalCluster
from cluster.waiting import HANG
from demo import story
from demo.users import Answers, Habit, conversing
from deployments import condition, pods, status, wait_ready
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

pytestmark = pytest.mark.e2e
Body = dict[str, Any]
SHORT = Habit(story.PROMPTS, max_new_tokens=24)
LOOK = 0.05  # seconds between two looks


def is_routed(pod: Body) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))
    return ready and pod["metadata"]["labels"]["headrace.dev/routable"] == "true"


def uid(pod: Body) -> str:
    return str(pod["metadata"]["uid"])


def tokens(pod: Body) -> float:
    """Generated so far by this pod's server."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("headrace_generation_tokens_total "))


OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # channels of one process share one, and so one pod


async def moment(what: str, is_true: Callable[[], bool]) -> None:
    """Returns when it is true."""
    until = time.monotonic() + HANG
    while not await asyncio.to_thread(is_true):
        assert time.monotonic() < until, what
        await asyncio.sleep(LOOK)


def test_a_standby_is_promoted_by_the_decision_itself_and_another_one_loads(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    name = deploy(minReplicas=1, maxReplicas=2, warmStandby=1)
    wait_ready(cluster, name, 1)
    cluster.wait("a warm standby", lambda: status(cluster, name)["warmReplicas"] == 1)
    (standby,) = [pod for pod in pods(cluster, name) if not is_routed(pod)]
    assert standby["metadata"]["labels"]["headrace.dev/role"] == "standby"
    assert tokens(standby) == 0  # nobody is routed to it

    async def burst() -> Answers:
        async with conversing(story.doors(cluster, name), 12, SHORT) as answers:
            await moment("the standby is promoted", lambda: any(map(is_promoted, pods(cluster, name))))
            await moment("it serves", lambda: tokens(standby) > 0)
        return answers

    def is_promoted(pod: Body) -> bool:
        return uid(pod) == uid(standby) and is_routed(pod)

    answers = asyncio.run(burst())
    cluster.wait("in a look that decided it", lambda: rises(cluster, name) & {*told_at(cluster, name, "PodPromoted")})
    (promoted,) = [pod for pod in pods(cluster, name) if uid(pod) == uid(standby)]
    assert promoted["status"]["containerStatuses"][0]["restartCount"] == 0
    assert dict(answers.failures) == {}
    cluster.wait("refilled", lambda: status(cluster, name)["warmReplicas"] == 1)


def test_a_lost_replica_is_replaced_by_the_standby_at_once(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=1, warmStandby=1)
    wait_ready(cluster, name, 1)
    cluster.wait("a warm standby", lambda: status(cluster, name)["warmReplicas"] == 1)
    (serving,) = filter(is_routed, pods(cluster, name))
    (standby,) = (pod for pod in pods(cluster, name) if not is_routed(pod))
    cluster.kubectl("delete", "pod", serving["metadata"]["name"], "--force", "--grace-period=0")

    def replaced() -> set[str]:
        return {uid(pod) for pod in pods(cluster, name) if is_routed(pod)} - {uid(serving)}

    assert cluster.wait("another one serves", replaced, interval=LOOK) == {uid(standby)}
    promoted = cluster.wait("it is told", lambda: told_at(cluster, name, "PodPromoted"))[-1]
    cluster.wait("not after what refills the place", lambda: promoted <= told_at(cluster, name, "PodCreated")[-1])
    cluster.wait("refilled", lambda: status(cluster, name)["warmReplicas"] == 1)


def test_a_cordon_brings_a_replacement_before_the_pod_leaves(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=1, maxReplicas=1)
    wait_ready(cluster, name, 1)
    (old,) = pods(cluster, name)
    node = old["spec"]["nodeName"]
    least = 99

    def is_gone() -> bool:
        nonlocal least
        seen = pods(cluster, name)
        least = min(least, sum(map(is_routed, seen)))
        return uid(old) not in map(uid, seen)

    async def evacuate() -> Answers:
        async with conversing(story.doors(cluster, name), 2, SHORT) as answers:
            await asyncio.to_thread(cluster.kubectl, "cordon", node)
            await moment("the old pod is gone", is_gone)
        return answers

    try:
        answers = asyncio.run(evacuate())
    finally:
        cluster.kubectl("uncordon", node)
    assert least >= 1
    assert dict(answers.failures) == {}
    assert answers.sent > 0
    (new,) = pods(cluster, name)
    assert new["spec"]["nodeName"] != node
    assert condition(cluster, name, "Ready")["status"] == "True"


def test_a_pod_that_a_person_drains_loses_no_stream(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=2, maxReplicas=2)
    wait_ready(cluster, name, 2)
    long, number = 150, 12
    leaving = pods(cluster, name)[0]

    async def stream() -> int:
        async with grpc.aio.insecure_channel(story.doors(cluster, name).grpc, OWN_CONNECTION) as channel:
            request = pb.GenerateRequest(text="In the beginning", max_new_tokens=long, ignore_eos=True)
            replies = inference_pb2_grpc.InferenceStub(channel).Generate(request)
            return sum([len(reply.token_ids) async for reply in replies])

    async def drain() -> list[int]:
        streams = [asyncio.create_task(stream()) for _ in range(number)]
        await moment("streams run", lambda: tokens(leaving) > 0)
        asked = "headrace.dev/drain-requested=now"
        await asyncio.to_thread(cluster.kubectl, "annotate", "pod", leaving["metadata"]["name"], asked)
        gone = moment("it is gone", lambda: uid(leaving) not in map(uid, pods(cluster, name)))
        await gone
        return await asyncio.gather(*streams)

    assert asyncio.run(drain()) == [long] * number
    wait_ready(cluster, name, 2)
    cluster.wait("it is told", lambda: "drained: no request is inside" in messages(cluster, name))


def test_an_eviction_below_the_minimum_is_refused_by_the_budget(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    name = deploy(minReplicas=1, maxReplicas=1)
    wait_ready(cluster, name, 1)

    def budget() -> Body:
        found: Body = json.loads(cluster.kubectl("get", "pdb", name, "-o", "json"))
        return found

    cluster.wait("the budget counts the pod", lambda: budget()["status"].get("currentHealthy") == 1)
    assert budget()["spec"]["minAvailable"] == 1
    assert budget()["status"]["disruptionsAllowed"] == 0


def rises(cluster: LocalCluster, name: str) -> set[str]:
    """RFC 3339, of the looks that decided for two replicas."""
    return {str(decision["at"]) for decision in status(cluster, name)["decisions"] if decision["to"] == 2}


def told_at(cluster: LocalCluster, name: str, reason: str) -> list[str]:
    """RFC 3339, of the looks that told it, oldest first."""
    told = [event for event in about(cluster, name) if event["reason"] == reason]
    return sorted(str(event[end]) for event in told for end in ("firstTimestamp", "lastTimestamp"))


def messages(cluster: LocalCluster, name: str) -> str:
    return "\n".join(event["message"] for event in about(cluster, name))


def about(cluster: LocalCluster, name: str) -> list[Body]:
    chosen = f"involvedObject.name={name},involvedObject.kind=InferenceDeployment"
    found: list[Body] = json.loads(cluster.kubectl("get", "events", "--field-selector", chosen, "-o", "json"))["items"]
    return found
