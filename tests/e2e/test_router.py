"""The router of examples/router.yaml before real replicas: held from nothing, spread, and nothing lost by a kill."""

import asyncio
import json
import signal
import urllib.request
from collections.abc import Iterator

import grpc
import psutil
import pytest
from cluster import LocalCluster
from demo import story
from deployments import Body, manifest, pods, status, wait_ready
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from openai import OpenAI

pytestmark = pytest.mark.e2e
NAME = "routed"
TOKENS = 24
BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}


@pytest.fixture
def router(cluster: LocalCluster) -> Iterator[story.Doors]:
    """It is there before any replica is."""
    text = (story.MODELS.parent / "router.yaml").read_text().replace("scripture", NAME)
    file = cluster.directory / "router.yaml"
    file.write_text(text)
    cluster.kubectl("apply", "-f", str(file))
    try:
        cluster.kubectl("rollout", "status", f"deployment/{NAME}-router", "--timeout=300s")
        yield story.doors(cluster, f"{NAME}-router")
    finally:
        cluster.kubectl("delete", "-f", str(file), "--wait=false")
        cluster.kubectl("delete", "infdep", NAME, "--ignore-not-found")
        cluster.wait(f"pods of {NAME} gone", lambda: not pods(cluster, NAME))


async def test_requests_wait_for_the_first_replica_and_outlive_the_death_of_one(
    cluster: LocalCluster, router: story.Doors
) -> None:
    async with grpc.aio.insecure_channel(router.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        held = [asyncio.create_task(generate(stub, turn)) for turn in range(4)]
        await asyncio.sleep(1)
        assert not any(call.done() for call in held), "nobody is refused while no replica is there"
        cluster.apply(manifest(NAME, autoscaling={"minReplicas": 2, "maxReplicas": 2}))
        assert await asyncio.gather(*held) == [(TOKENS, None)] * 4
        await asyncio.to_thread(wait_ready, cluster, NAME, 2)

        client = OpenAI(base_url=f"{router.http}/v1", api_key="unused")
        answer = await asyncio.to_thread(
            client.completions.create, model=NAME, prompt="In the beginning", max_tokens=4, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4

        await asyncio.to_thread(cluster.wait, "routers know of starts", lambda: know_of_starts(cluster))
        by_revision = f'headrace_router_revision_requests_total{{revision="{status(cluster, NAME)["revision"]}"}}'
        routers = await asyncio.to_thread(router_metrics, cluster)
        assert sum(told.get(by_revision, 0) for told in routers) == 5

        calls = [asyncio.create_task(generate(stub, turn)) for turn in range(60)]
        await asyncio.sleep(0.5)
        killed = kill_one(cluster)
        ends = await asyncio.gather(*calls)
        # Whose stream had begun there sees it reset, which gRPC calls INTERNAL; all others never notice.
        broken = [end for end in ends if end != (TOKENS, None)]
        assert all(tokens > 0 and code in BROKEN for tokens, code in broken), broken
        assert len(broken) <= 2, "a replica runs two at a time here"
        await asyncio.to_thread(cluster.wait, "it is started again", lambda: killed in restarted(cluster))


async def generate(stub: inference_pb2_grpc.InferenceStub, turn: int) -> tuple[int, grpc.StatusCode | None]:
    """Tokens that came, and what ended the stream early."""
    request = pb.GenerateRequest(text=f"Chapter {turn}. In the beginning", max_new_tokens=TOKENS, ignore_eos=True)
    tokens = 0
    try:
        async for reply in stub.Generate(request, timeout=300):
            tokens += len(reply.token_ids)
    except grpc.aio.AioRpcError as error:
        return tokens, error.code()
    return tokens, None


def know_of_starts(cluster: LocalCluster) -> bool:
    """What the operator wrote into the deployment's status has come to both routers."""
    seconds = float(status(cluster, NAME)["startup"]["p95Seconds"])
    return all(told['headrace_router_start_seconds{model=""}'] == seconds for told in router_metrics(cluster))


def router_metrics(cluster: LocalCluster) -> list[dict[str, float]]:
    """Of each router."""
    selector = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/name=headrace-router"
    found = json.loads(cluster.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
    told = []
    for pod in found:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        told.append({line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines})
    assert len(told) == 2
    return told


def kill_one(cluster: LocalCluster) -> str:
    """SIGKILL to a replica's server; gives its pod's UID."""
    pod = pods(cluster, NAME)[0]
    host = f"--host={pod['status']['podIP']}"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "serve" in words and host in words:
            process.send_signal(signal.SIGKILL)
            return str(pod["metadata"]["uid"])
    raise LookupError(f"no server with {host}")


def restarted(cluster: LocalCluster) -> set[str]:
    """UIDs of pods whose server was started more than once."""
    return {pod["metadata"]["uid"] for pod in pods(cluster, NAME) for each in containers(pod) if each["restartCount"]}


def containers(pod: Body) -> list[Body]:
    found: list[Body] = pod["status"].get("containerStatuses", [])
    return found
