"""The commands for people, at a real API server without an operator: what they write, and what they say if refused."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schema
import yaml
from cluster import LocalCluster
from tools import headrace, kubectl_headrace

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("tools"), nodes=()) as running:
        schema.install(running)
        yield running


@pytest.fixture
def chat(cluster: LocalCluster) -> Iterator[str]:
    """An InferenceDeployment with one pod, that no operator looks after."""
    spec = {
        "model": {"source": "pvc://models/llama"},
        "pod": {
            "env": [{"name": "NCCL_DEBUG", "value": "planted-value"}],
            "imagePullSecrets": ["planted-secret"],
            "annotations": {"example.com/owner": "planted-owner"},
        },
    }
    metadata = {"name": "chat", "namespace": "default"}
    cluster.apply(
        {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": metadata, "spec": spec}
    )
    cluster.wait("the ServiceAccount", lambda: cluster.object("serviceaccount", "default"))
    cluster.apply(pod("chat-0", "chat"), pod("other-0", "other"))
    yield "chat"
    cluster.kubectl("delete", "infdep,pod", "--all", "--now")


def pod(name: str, deployment: str) -> dict[str, Any]:
    container = {
        "name": "server",
        "image": "registry.planted.example/team/headrace-server:0.1.0",
        "args": ["serve", "--api-key=planted-key"],
        "env": [{"name": "HF_ENDPOINT", "value": "planted-endpoint"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"headrace.dev/deployment": deployment}},
        "spec": {"containers": [container], "imagePullSecrets": [{"name": "planted-secret"}]},
    }


def managers(body: dict[str, Any]) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in body["metadata"]["managedFields"]}


def test_a_mode_is_the_persons_own_write(cluster: LocalCluster, chat: str) -> None:
    for command, mode in (("pause", "Paused"), ("shadow", "Shadow"), ("resume", "Auto")):
        said = headrace(cluster, command, chat)
        assert said.status == 0, said.err
        assert f"-> {mode}" in said.out
        assert said.err == "", "the manifest names no mode: nobody puts it back"
        body = cluster.object("infdep", chat, "--show-managed-fields")
        assert body["spec"]["autoscaling"]["mode"] == mode
        assert managers(body)["headrace-cli"] == {"f:spec": {"f:autoscaling": {"f:mode": {}}}}
    again = headrace(cluster, "resume", chat)
    assert (again.status, again.out) == (0, "chat: mode is Auto already\n")
    assert "-> External" in headrace(cluster, "resume", chat, "--mode", "External").out


def test_a_mode_that_a_manifest_names_is_put_back_by_it_and_that_is_said(cluster: LocalCluster, chat: str) -> None:
    named = {"spec": {"autoscaling": {"mode": "Auto"}}}
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": {"name": chat}, **named}
    cluster.kubectl(
        "apply", "--server-side", "--field-manager=gitops", "--force-conflicts", "-f", "-", stdin=json.dumps(body)
    )
    said = headrace(cluster, "pause", chat)
    assert said.status == 0
    assert "gitops wrote spec.autoscaling.mode before" in said.err


def test_kubectl_apply_with_a_mode_is_warned_of_as_well(cluster: LocalCluster, chat: str) -> None:
    spec = {"model": {"source": "pvc://models/llama"}, "autoscaling": {"mode": "Auto"}}
    metadata = {"name": chat, "namespace": "default"}
    cluster.apply(
        {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": metadata, "spec": spec}
    )
    assert "kubectl-client-side-apply wrote spec.autoscaling.mode" in headrace(cluster, "shadow", chat).err


def test_a_drain_is_asked_of_the_operator(cluster: LocalCluster, chat: str) -> None:
    said = headrace(cluster, "drain", chat, "chat-0")
    assert said.status == 0, said.err
    body = cluster.object("pod", "chat-0", "--show-managed-fields")
    assert body["metadata"]["annotations"]["headrace.dev/drain-requested"].endswith("Z")
    assert "headrace-cli" in managers(body)


def test_in_shadow_mode_nothing_would_follow_a_drain_and_that_is_said(cluster: LocalCluster, chat: str) -> None:
    headrace(cluster, "shadow", chat)
    said = headrace(cluster, "drain", chat, "chat-0")
    assert said.status == 1
    assert "mode Shadow" in said.err
    assert "drain-requested" not in cluster.kubectl("get", "pod", "chat-0", "-o", "yaml")


def test_status_is_a_table_for_people_and_json_for_scripts(cluster: LocalCluster, chat: str) -> None:
    table = headrace(cluster, "status").out.splitlines()
    assert table[0].split()[:3] == ["NAMESPACE", "NAME", "MODE"]
    assert table[1].split()[:6] == ["default", chat, "Auto", "unknown", "unknown", "1..1"]
    (row,) = json.loads(headrace(cluster, "status", "--all-namespaces", "-o", "json").out)
    assert (row["name"], row["mode"], row["ready"]) == (chat, "Auto", None)
    one = json.loads(headrace(cluster, "status", chat, "-o", "json").out)
    assert [found["name"] for found in one["pods"]] == ["chat-0"]
    assert "chat-0" in headrace(cluster, "status", chat).out
    assert "no InferenceDeployments" in headrace(cluster, "status", "-n", "kube-system").out


def test_kubectl_finds_the_plugin(cluster: LocalCluster, chat: str) -> None:
    said = kubectl_headrace(cluster, "status", "-n", "default")
    assert said.status == 0, said.err
    assert said.out == headrace(cluster, "status").out
    assert chat in said.out


def test_what_was_not_decided_yet_cannot_be_explained(cluster: LocalCluster, chat: str) -> None:
    said = headrace(cluster, "explain", chat)
    assert (said.status, said.out) == (1, "")
    assert "has not decided" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(
            ("explain", "nothing"), ["no InferenceDeployment nothing in namespace default", "--all-namespaces"]
        ),
        pytest.param(("status", "chat", "-n", "elsewhere"), ["namespace elsewhere"]),
        pytest.param(("drain", "chat", "nothing"), ["chat has no pod nothing", "headrace status chat"]),
        pytest.param(("drain", "chat", "other-0"), ["chat has no pod other-0"]),
        pytest.param(("status", "--context", "nowhere"), ["nowhere", "kubectl config get-contexts"]),
        pytest.param(("status", "--kubeconfig", "/nothing"), ["no kubeconfig at /nothing", "--kubeconfig"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_one_line_with_the_remedy(
    cluster: LocalCluster, chat: str, words: tuple[str, ...], says: list[str]
) -> None:
    said = headrace(cluster, *words)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("headrace: ")
    assert said.err.count("\n") == 1
    for text in says:
        assert text in said.err


def test_who_has_no_right_is_told_which_to_ask_for(cluster: LocalCluster, chat: str, tmp_path: Path) -> None:
    cluster.kubectl("create", "serviceaccount", "stranger")
    other = tmp_path / "stranger"
    other.write_text(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "stranger").strip()
    cluster.kubectl("config", "--kubeconfig", other, "set-credentials", "stranger", f"--token={token}")
    cluster.kubectl("config", "--kubeconfig", other, "set-context", "--current", "--user=stranger")
    said = headrace(cluster, "pause", chat, KUBECONFIG=str(other))
    assert said.status == 1
    assert "forbidden" in said.err
    assert "`edit` role" in said.err
    assert said.err.count("\n") == 1


def test_a_cluster_that_does_not_answer_is_named(cluster: LocalCluster, tmp_path: Path) -> None:
    other = tmp_path / "away"
    other.write_text(cluster.kubeconfig.read_text())
    cluster.kubectl("config", "--kubeconfig", other, "set-cluster", "headrace-local", "--server=https://127.0.0.1:1")
    said = headrace(cluster, "status", "--kubeconfig", str(other))
    assert said.status == 1
    assert "https://127.0.0.1:1" in said.err
    assert "kubectl config current-context" in said.err
    assert said.err.count("\n") == 1


def test_a_report_is_redacted_and_says_what_it_lacks(cluster: LocalCluster, chat: str, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    said = headrace(cluster, "report", chat, "-o", str(file), "--operator-metrics", "http://127.0.0.1:1/metrics")
    assert said.status == 0, said.err
    assert "note: without the operator's metrics" in said.err
    with tarfile.open(file) as archive:
        texts = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
    assert file.stat().st_mode & 0o777 == 0o600
    uid = cluster.object("pod", "chat-0")["metadata"]["uid"]
    for name, text in texts.items():
        assert "planted" not in text, name
        assert uid not in text, name
    parts = {name.partition("/")[2] for name in texts}
    assert {"README.txt", "object.yaml", "pods.yaml", "events.yaml", "explain.txt", "versions.json"} <= parts
    (found,) = yaml.safe_load(texts["headrace-chat/pods.yaml"])
    assert found["metadata"]["name"] == "chat-0"
    assert "the operator's metrics: " in texts["headrace-chat/README.txt"]
    again = headrace(cluster, "report", chat, "-o", str(file))
    assert again.status == 1
    assert "exists already" in again.err


def test_a_cluster_without_headrace_is_told_from_a_missing_object(cluster: LocalCluster) -> None:
    cluster.kubectl("delete", "-f", schema.CRD)
    try:
        said = headrace(cluster, "status", "chat")
        assert said.status == 1
        assert "helm install" in said.err
    finally:
        schema.install(cluster)
