"""From no replica to four and back under load, through routers that the operator runs; a server is killed meanwhile."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import psutil
import pytest
from cluster import LocalCluster
from demo import story
from deployments import Body, condition, manifest, pods, status
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

pytestmark = pytest.mark.e2e
NAME = "zero"
TOKENS = 24
USERS = 14
AFTER = 6.0  # seconds of load after the server that was killed is there again
SLOTS = 2  # of each server, by the manifest: no more streams can be in a server's hands
RETRIABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
}  # INTERNAL is how gRPC names a stream that was reset


@dataclass(slots=True)
class Seen:
    """What the users saw, as it happens."""

    answered: int = 0
    broken: Counter[grpc.StatusCode] = field(default_factory=Counter)  # after a token
    refused: Counter[str] = field(default_factory=Counter)  # before any
    first: float = 0.0  # seconds that the first request took, which brought the first replica


@pytest.fixture
def routed(cluster: LocalCluster) -> Iterator[str]:
    asked = {"minReplicas": 0, "maxReplicas": 4, "idleTimeout": "6s", "scaleDownWindow": "6s"}
    cluster.apply(manifest(NAME, autoscaling=asked, routing={"mode": "Headrace"}))
    yield NAME
    cluster.kubectl("delete", "infdep", NAME)
    cluster.wait(f"pods of {NAME} gone", lambda: not pods(cluster, NAME))


def is_at_zero(cluster: LocalCluster) -> bool:
    now = status(cluster, NAME)
    return not pods(cluster, NAME) and now["lastDecision"]["reason"] == "AtZero"


async def test_nothing_is_lost_from_zero_to_four_and_back(cluster: LocalCluster, routed: str) -> None:
    def is_routed() -> bool:
        told = condition(cluster, routed, "RoutingReady")
        return told["status"] == "True" and told["message"].startswith("2 of 2 ")

    await asyncio.to_thread(cluster.wait, "both routers", is_routed)
    reasons = [entry["reason"] for entry in status(cluster, routed)["decisions"]]
    assert reasons[0] == "BelowMinimum", "the first replica shows that the model can be served"
    await asyncio.to_thread(cluster.wait, "nobody asks, and none is left", lambda: is_at_zero(cluster))
    assert condition(cluster, routed, "Ready")["reason"] == "ScaledToZero"

    seen = Seen()
    place = story.doors(cluster, f"{routed}-router")
    async with grpc.aio.insecure_channel(place.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        enough = asyncio.Event()
        users = [asyncio.create_task(ask(stub, number, enough, seen)) for number in range(USERS)]
        try:
            await asyncio.to_thread(cluster.wait, "all four", lambda: status(cluster, routed)["readyReplicas"] == 4)
            rise = status(cluster, routed)["decisions"]  # only the last ten are kept
            await asyncio.to_thread(kill_one, cluster, routed)
            await asyncio.to_thread(
                cluster.wait, "it is started again", lambda: any(map(restarts, pods(cluster, routed)))
            )
            await asyncio.sleep(AFTER)
        finally:
            enough.set()
        await asyncio.gather(*users)
    lost = sum(seen.broken.values())
    print(f"{seen.answered} answered, {lost} broken by the kill {dict(seen.broken)}, {dict(seen.refused)} refused; ")
    print(f"the first answer took {seen.first:.1f} s")
    assert seen.refused == {}
    assert lost <= SLOTS
    assert set(seen.broken) <= RETRIABLE

    await asyncio.to_thread(cluster.wait, "nobody asks any more", lambda: is_at_zero(cluster))
    assert "ScaleFromZero" in {decision["reason"] for decision in rise}
    last = status(cluster, routed)["decisions"][-1]
    assert [last["reason"], last["to"]] == ["IdleToZero", 0]


async def ask(stub: inference_pb2_grpc.InferenceStub, user: int, enough: asyncio.Event, seen: Seen) -> None:
    """One question after the other; nobody asks again what failed."""
    while not enough.is_set():
        began = time.monotonic()
        text = f"Chapter {user}. In the beginning"
        tokens = 0
        try:
            async for reply in stub.Generate(
                pb.GenerateRequest(text=text, max_new_tokens=TOKENS, ignore_eos=True), timeout=300
            ):
                tokens += len(reply.token_ids)
        except grpc.aio.AioRpcError as error:
            if tokens:
                seen.broken[error.code()] += 1
            else:
                seen.refused[f"{error.code().name}: {error.details()}"] += 1
        else:
            seen.answered += 1
            seen.first = seen.first or time.monotonic() - began


def restarts(pod: Body) -> int:
    return sum(int(each["restartCount"]) for each in pod["status"].get("containerStatuses", ()))


def is_restarted(cluster: LocalCluster, name: str) -> bool:
    return any(map(restarts, pods(cluster, name)))


def kill_one(cluster: LocalCluster, name: str) -> None:
    host = f"--host={pods(cluster, name)[0]['status']['podIP']}"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "serve" in words and host in words:
            process.send_signal(signal.SIGKILL)
            return
    raise LookupError(f"no server with {host}")
