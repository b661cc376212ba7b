"""Nothing that looks like a credential leaves; what a bug is found by stays."""

import json
from typing import Any

import pytest
from headrace_operator.tools.redaction import REDACTED, Redaction
from hypothesis import given
from hypothesis import strategies as st

UID = "5d1f7f0e-96a4-4d6c-9c0b-1f5f3a1c2b7d"
OTHER_UID = "0a1b2c3d-96a4-4d6c-9c0b-1f5f3a1c2b7d"
ANNOTATIONS = {
    "kubectl.kubernetes.io/last-applied-configuration": '{"env": [{"value": "planted-credential-1"}]}',
    "vault.example.com/role": "planted-credential-2",
    "headrace.dev/unrouted-at": "1789000000.0",
}
POD = {
    "kind": "Pod",
    "metadata": {
        "name": "chat-5f3a1-0",
        "namespace": "default",
        "uid": UID,
        "labels": {"headrace.dev/routable": "true"},
        "annotations": ANNOTATIONS,
        "ownerReferences": [{"kind": "InferenceDeployment", "name": "chat", "uid": OTHER_UID}],
        "managedFields": [
            {
                "manager": "headrace",
                "fieldsV1": {
                    "f:spec": {
                        "f:imagePullSecrets": {'k:{"name":"planted-credential-3"}': {".": {}}, 'v:"planted-15"': {}},
                        "f:containers": {'k:{"name":"server"}': {"f:image": {}}},
                    }
                },
            }
        ],
    },
    "spec": {
        "imagePullSecrets": [{"name": "planted-credential-3"}],
        "containers": [
            {
                "name": "server",
                "image": "registry.planted.example:5000/team/headrace-server:0.1.0",
                "args": [
                    "serve",
                    "--model=/models/llama",
                    "--api-key=planted-credential-4",
                    "--auth-token",
                    "planted-credential-5",
                ],
                "env": [
                    {"name": "OMP_NUM_THREADS", "value": "4"},
                    {"name": "HF_ENDPOINT", "value": "planted-credential-6"},
                    {
                        "name": "PASSWORD",
                        "valueFrom": {"secretKeyRef": {"name": "planted-credential-7", "key": "planted-credential-8"}},
                    },
                ],
                "envFrom": [{"secretRef": {"name": "planted-credential-9"}}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "tls", "secret": {"secretName": "planted-credential-10"}},
            {"name": "all", "projected": {"sources": [{"secret": {"name": "planted-credential-11"}}]}},
        ],
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
    },
    "status": {
        "phase": "Running",
        "containerStatuses": [{"imageID": "registry.planted.example:5000/team/headrace-server@sha256:" + "0a" * 32}],
    },
}
OBJECT = {
    "spec": {
        "model": {"source": "oci://registry.planted.example:5000/team/llama:1"},
        "pod": {
            "imagePullSecrets": ["planted-credential-12"],
            "env": [{"name": "NCCL_DEBUG", "value": "planted-credential-13"}],
            "annotations": {"example.com/owner": "planted-credential-14"},
        },
        "batching": {"maxTokensPerStep": 2048},
    },
    "status": {
        "capacity": {"tokensPerSecondPerReplica": "266"},
        "lastDecision": {"inputs": {"load": {"tokensPerRequest": "96"}}},
    },
}


@pytest.fixture
def redaction() -> Redaction:
    return Redaction([POD, OBJECT])


def test_no_planted_credential_survives(redaction: Redaction) -> None:
    text = json.dumps([redaction.document(POD), redaction.document(OBJECT)])
    assert "planted" not in text
    assert UID not in text


def test_what_a_bug_is_found_by_stays(redaction: Redaction) -> None:
    pod, body = redaction.document(POD), redaction.document(OBJECT)
    container = pod["spec"]["containers"][0]
    assert container["image"] == f"{REDACTED}/team/headrace-server:0.1.0"
    assert container["args"][:2] == ["serve", "--model=/models/llama"]
    assert [variable["name"] for variable in container["env"]] == ["OMP_NUM_THREADS", "HF_ENDPOINT", "PASSWORD"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert pod["status"]["containerStatuses"][0]["imageID"].endswith("@sha256:" + "0a" * 32)
    assert pod["spec"]["topologySpreadConstraints"] == [{"topologyKey": "kubernetes.io/hostname"}]
    assert pod["metadata"]["annotations"]["headrace.dev/unrouted-at"] == "1789000000.0"
    assert pod["spec"]["volumes"][0] == POD["spec"]["volumes"][0]  # type: ignore[index]
    assert body["status"] == OBJECT["status"]
    assert body["spec"]["batching"] == OBJECT["spec"]["batching"]


def test_what_the_objects_held_is_found_in_logs_and_messages(redaction: Redaction) -> None:
    log = 'registry.planted.example:5000/team/x: secret "planted-credential-3" not found; endpoint planted-credential-6'
    assert "planted" not in redaction.text(log)


def test_a_uid_is_the_same_number_everywhere(redaction: Redaction) -> None:
    """A server takes its pod's UID as the password of its drain call."""
    first = redaction.document(POD)["metadata"]["uid"]
    assert first.startswith("uid-")
    assert redaction.text(f"drained {UID}") == f"drained {first}"
    assert redaction.text(OTHER_UID) != first


def random_looking(prefix: str, length: int) -> str:
    return prefix + ("aZ9bY8cX7dW6" * 10)[:length]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("curl https://user:hunter2@example.com/x", "hunter2"),
        ("git clone https://abc123@example.com/x", "abc123"),
        ('{"password": "hunter2, really"}', "hunter2, really"),
        ("db_password=hunter2 host=db", "hunter2"),
        ("--hf-token=hunter2", "hunter2"),
        ("API_KEY: hunter2", "hunter2"),
        ("aws_secret_access_key = hunter2", "hunter2"),
        ("GET /model?X-Amz-Signature=0123abcd&x=1", "0123abcd"),
        ("GET /blob?sv=1&sig=0123abcd%3D", "0123abcd%3D"),
        (f"token {random_looking('hf_', 34)}", random_looking("hf_", 34)),
        (f"key {random_looking('sk-proj-', 40)}", random_looking("sk-proj-", 40)),
        (f"ghp {random_looking('ghp_', 36)}", random_looking("ghp_", 36)),
        ("id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.abc-DEF_123", "eyJzdWIiOiJ4In0"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----", "IBAAK"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEow\ncut off", "MIIEow"),
        ("session 0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        (f"opaque {random_looking('', 44)}=", random_looking("", 44)),
    ],
)
def test_what_looks_like_a_credential_goes(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in Redaction([]).text(text)


@pytest.mark.parametrize(
    "text",
    [
        "266 prompt + 64 new tokens, queue wait 3 ms",
        'headrace_server_tokens_total{kind="prompt"} 1234.0',
        "2 -> 4 replicas: 120 tok/s arrive and 40 tokens wait, a replica carries 66 tok/s at 70%",
        "max_tokens=32 max-tokens-per-step=2048 tokenizer=llama",
        "meta-llama/Meta-Llama-3.1-70B-Instruct-AWQ-INT4 loaded",
        "image headrace-server@sha256:" + "0a" * 32,
        "2026-11-21 10:00:00,123 INFO headrace_operator.lease: leader is headrace-5d8f7c9b6-x2x4z",
        'File "headrace_operator/observe/scrape.py", line 33, in scrape_all_of_the_pods_with_their_own_deadline',
        "GET /apis/headrace.dev/v1alpha1/namespaces/default/inferencedeployments/chat/status 200",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Redaction([]).text(text) == text


secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", min_size=12, max_size=60).filter(
    lambda text: text.strip("-") == text
)
places: dict[str, Any] = {
    "env": lambda secret: {"env": [{"name": "X", "value": secret}]},
    "pull secret": lambda secret: {"imagePullSecrets": [{"name": secret}]},
    "secret volume": lambda secret: {"volumes": [{"secret": {"secretName": secret, "items": [{"key": secret}]}}]},
    "key reference": lambda secret: {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": secret}}}]},
    "annotation": lambda secret: {"annotations": {"example.com/x": secret}},
    "password field": lambda secret: {"registry": {"password": secret}},
    "option": lambda secret: {"args": ["--api-key", secret]},
    "option with =": lambda secret: {"args": [f"--hf-token={secret}"]},
}


@given(secrets, st.sampled_from(sorted(places)))
def test_a_credential_in_a_known_place_never_leaves(secret: str, place: str) -> None:
    document = {"metadata": {"name": "chat"}, "spec": places[place](secret)}
    assert secret not in json.dumps(Redaction([document]).document(document))


@given(secrets, st.sampled_from(["env", "pull secret", "secret volume", "key reference"]))
def test_a_known_value_never_leaves_in_a_log_either(secret: str, place: str) -> None:
    redaction = Redaction([{"spec": places[place](secret)}])
    assert secret not in redaction.text(f"cannot use {secret}: refused ({secret})")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(),
        lambda below: st.lists(below) | st.dictionaries(st.text("wxyz", max_size=8), below),
    )
)
def test_what_holds_no_text_is_unchanged(document: Any) -> None:
    assert Redaction([document]).document(document) == document
