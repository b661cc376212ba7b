"""A deployment with keys and TLS, and a router before it: both answer who has a key, and it scales and drains."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from cluster import LocalCluster
from demo import story
from deployments import Body, condition, manifest, pods, status, wait_ready
from headrace_server.rpc.api_keys import line, new_key
from headrace_server.rpc.pb import inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.e2e
NAME, HOST, ROUTER = "locked", "locked.default.svc", "locked-router.default.svc"


def secret(name: str, **data: str) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def generate(place: str, authority: Authority, *metadata: tuple[str, str], host: str = HOST) -> int:
    """The tokens that came."""
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", host)]  # a pod's address is in no certificate
    with grpc.secure_channel(place, credentials, options) as channel:
        request = inference_pb2.GenerateRequest(text="In the beginning", max_new_tokens=8, ignore_eos=True)
        replies = inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=300, metadata=metadata)
        return sum(len(reply.token_ids) for reply in replies)


def complete(url: str, authority: Authority, key: str) -> int:
    """The status."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False  # as above; who signed it is checked all the same
    body = json.dumps({"model": NAME, "prompt": "In the beginning", "max_tokens": 4}).encode()
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=300, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_keys_and_tls_let_in_who_has_a_key_and_nobody_else(cluster: LocalCluster, tmp_path: Path) -> None:
    authority, key = Authority(tmp_path), new_key()
    pair = authority.sign("server", HOST, ROUTER)
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    files = {name: path.read_text() for name, path in texts.items()}
    cluster.apply(
        secret("locked-keys", keys=line("team-a", key)),
        secret("locked-tls", **files),
        manifest(
            NAME,
            auth={"apiKeys": {"secretName": "locked-keys"}, "tls": {"secretName": "locked-tls"}},
            routing={"mode": "Headrace", "replicas": 1},
        ),
    )
    try:
        wait_ready(cluster, NAME, 1)
        (pod,) = pods(cluster, NAME)
        address = pod["status"]["podIP"]

        assert generate(f"{address}:50051", authority, ("authorization", f"Bearer {key}")) == 8
        with pytest.raises(grpc.RpcError) as refused:
            generate(f"{address}:50051", authority)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

        door = f"https://{address}:8000/v1/completions"
        assert [complete(door, authority, key), complete(door, authority, new_key())] == [200, 401]
        with pytest.raises(OSError, match=r"reset|closed"):
            urllib.request.urlopen(f"http://{address}:8000/health", timeout=300)

        cluster.wait("a router", lambda: condition(cluster, NAME, "RoutingReady")["status"] == "True")
        place = story.doors(cluster, f"{NAME}-router").grpc
        assert generate(place, authority, ("authorization", f"Bearer {key}"), host=ROUTER) == 8
        with pytest.raises(grpc.RpcError) as refused:
            generate(place, authority, host=ROUTER)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

        cluster.wait(
            "the operator's own figures of it",
            lambda: status(cluster, NAME)["lastDecision"]["inputs"]["load"].get("answeredPods") == 1,
        )
    finally:
        cluster.kubectl("delete", "infdep", NAME)
        cluster.wait("pods gone: it was drained over the admin port", lambda: not pods(cluster, NAME))
