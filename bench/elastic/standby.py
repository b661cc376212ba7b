"""From a lost replica to its standby's label, and to the first token of who asks then: no start is in between."""

import time
from typing import Any

import grpc
from cluster import LocalCluster
from comparison.percentile import milliseconds
from demo import story
from deployments import Body, pods, status
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

NAME = "standby"
LOOK = 0.02  # seconds


def spec() -> dict[str, Any]:
    return {"autoscaling": {"minReplicas": 1, "maxReplicas": 1, "warmStandby": 1}}


def measure(cluster: LocalCluster, say: story.Say, *, losses: int) -> dict[str, Any]:
    """The replica is lost again and again, each time once another standby is warm."""
    promoted, served = list[float](), list[float]()
    while len(promoted) < losses:
        cluster.wait("a warm standby", lambda: status(cluster, NAME)["warmReplicas"] == 1)
        lost = routed(cluster)
        began = time.monotonic()
        cluster.kubectl("delete", "pod", *lost, "--force", "--grace-period=0", "--wait=false")
        standby = cluster.wait("another one is routed", lambda lost=lost: routed(cluster) - lost, interval=LOOK)
        promoted.append(time.monotonic() - began)
        first_token(cluster, standby.pop())
        served.append(time.monotonic() - began)
        say(f"  promoted after {promoted[-1]:.2f} s, a token after {served[-1]:.2f} s")
    return {
        "name": "from a lost replica to its standby",
        "losses": losses,
        "promoted_after_p50_ms": milliseconds(promoted, 50),
        "promoted_after_max_ms": milliseconds(promoted, 100),
        "token_after_p50_ms": milliseconds(served, 50),
        "token_after_max_ms": milliseconds(served, 100),
    }


def routed(cluster: LocalCluster) -> set[str]:
    """Names of pods that the Service chooses."""
    return {pod["metadata"]["name"] for pod in pods(cluster, NAME) if is_routed(pod)}


def is_routed(pod: Body) -> bool:
    metadata = pod["metadata"]
    return metadata["labels"]["headrace.dev/routable"] == "true" and "deletionTimestamp" not in metadata


def first_token(cluster: LocalCluster, name: str) -> None:
    """Of the pod itself: how soon a Service knows of it is the cluster's matter."""
    (address,) = (pod["status"]["podIP"] for pod in pods(cluster, NAME) if pod["metadata"]["name"] == name)
    with grpc.insecure_channel(f"{address}:50051") as channel:
        request = pb.GenerateRequest(text=story.PROMPTS[0], max_new_tokens=1)
        next(inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=60))
