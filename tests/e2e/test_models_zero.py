"""Two models with TLS behind one address, and no replica of one: what is held brings it, as docs/router.md says."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from cluster import LocalCluster
from demo.users import Doors
from deployments import Body, condition, manifest, pods, status, wait_ready
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from model_routers import LARGE, ROUTERS, SMALL, from_zero, installed

pytestmark = pytest.mark.e2e
USERS, TOKENS = 6, 8
ZERO = {"idleTimeout": "6s", "scaleDownWindow": "6s"}


@pytest.fixture
def doors(tmp_path: Path) -> Authority:
    """Who signs for the routers' own doors."""
    return Authority(tmp_path, "doors")


@pytest.fixture
def both(cluster: LocalCluster, doors: Authority, tmp_path: Path) -> Iterator[None]:
    spec = from_zero()
    for name in (SMALL, LARGE):  # each has an authority of its own
        cluster.apply(certificate(Authority(tmp_path, name), f"{name}-tls", f"{name}.default.svc"))
    cluster.apply(certificate(doors, "chat-models-tls", f"{ROUTERS}.default.svc"))
    scaling = {SMALL: {**spec["autoscaling"], **ZERO}, LARGE: {"minReplicas": 1, "maxReplicas": 1}}
    for name, autoscaling in scaling.items():
        tls = {"tls": {"secretName": f"{name}-tls"}}
        cluster.apply(manifest(name, path=name, autoscaling=autoscaling, routing=spec["routing"], auth=tls))
    try:
        for name in (SMALL, LARGE):
            wait_ready(cluster, name, 1)
        yield
    finally:
        cluster.kubectl("delete", "infdep", SMALL, LARGE)
        cluster.wait("their pods gone", lambda: not any(pods(cluster, name) for name in (SMALL, LARGE)))


@pytest.fixture
def routers(cluster: LocalCluster, both: None, tmp_path: Path) -> Iterator[Doors]:
    words = ("--set", f"modelRouters.chat.replicaTls.large.secretName={LARGE}-tls")
    with installed(cluster, tmp_path, *words, tls=True) as place:
        yield place


async def test_a_request_that_model_routers_hold_brings_the_first_replica(
    cluster: LocalCluster, routers: Doors, doors: Authority
) -> None:
    def are_ready() -> bool:
        told = condition(cluster, SMALL, "RoutingReady")
        message: str = told["message"]
        return message.startswith("2 of 2 model routers of default/chat are ready")

    def is_at_zero() -> bool:
        decision: Body = status(cluster, SMALL)["lastDecision"]
        return not pods(cluster, SMALL) and bool(decision["reason"] == "AtZero")

    await asyncio.to_thread(cluster.wait, "the operator knows both routers", are_ready)
    await asyncio.to_thread(cluster.wait, "nobody asks, and none is left", is_at_zero)
    credentials = grpc.ssl_channel_credentials(doors.certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", f"{ROUTERS}.default.svc")]  # no Service has a name on this machine
    async with grpc.aio.secure_channel(routers.grpc, credentials, options) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        assert await tokens(stub, 0, ("x-tier", "premium")) == TOKENS, "the large model has a replica"
        assert is_at_zero()
        assert await asyncio.gather(*(tokens(stub, user) for user in range(USERS))) == [TOKENS] * USERS
    await asyncio.to_thread(cluster.wait, "nobody asks any more", is_at_zero)
    decisions = status(cluster, SMALL)["decisions"]
    assert [decisions[-1]["reason"], decisions[-1]["to"]] == ["IdleToZero", 0]
    assert "ScaleFromZero" in {decision["reason"] for decision in decisions}
    assert status(cluster, LARGE)["readyReplicas"] == 1


async def tokens(stub: inference_pb2_grpc.InferenceStub, user: int, *metadata: tuple[str, str]) -> int:
    """That came. Nobody asks again what failed."""
    request = pb.GenerateRequest(text=f"Chapter {user}. In the beginning", max_new_tokens=TOKENS, ignore_eos=True)
    return sum([len(reply.token_ids) async for reply in stub.Generate(request, metadata=metadata, timeout=300)])


def certificate(authority: Authority, name: str, host: str) -> Body:
    """A Secret, as cert-manager writes one."""
    pair = authority.sign(name, host)
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    metadata = {"name": name, "namespace": "default"}
    data = {file: path.read_text() for file, path in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
