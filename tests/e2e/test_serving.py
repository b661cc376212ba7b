"""A manifest becomes warm pods that answer, and what a user or an SRE then sees."""

from collections.abc import Callable

import grpc
import pytest
from cluster import CommandFailed, LocalCluster
from demo import story
from deployments import condition, manifest, pods, status, wait_ready
from headrace_server.rpc.pb import inference_pb2, inference_pb2_grpc
from openai import OpenAI

pytestmark = pytest.mark.e2e


def test_a_manifest_becomes_pods_that_answer(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=2, maxReplicas=2)
    wait_ready(cluster, name, 2)
    place = story.doors(cluster, name)

    with grpc.insecure_channel(place.grpc) as channel:
        request = inference_pb2.GenerateRequest(text="In the beginning", max_new_tokens=8, ignore_eos=True)
        replies = list(inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=300))
    assert sum(len(reply.token_ids) for reply in replies) == 8
    assert replies[-1].finish_reason == inference_pb2.FINISH_REASON_LENGTH

    client = OpenAI(base_url=f"{place.http}/v1", api_key="unused")
    answer = client.completions.create(model=name, prompt="In the beginning", max_tokens=8, temperature=0)
    assert answer.choices[0].text == "".join(reply.text for reply in replies)
    assert [model.id for model in client.models.list()] == [name]

    table = cluster.kubectl("get", "infdep", name).splitlines()
    assert table[0].split() == ["NAME", "READY", "DESIRED", "WARM", "QUEUE-WAIT", "TOK/S", "REASON", "AGE"]
    assert table[1].split()[:3] == [name, "2", "2"]
    for word in ("EnoughReady", "ModelLoaded", "AllAnswer", "BelowMinimum", "PodCreated"):  # a busy pod may miss a look
        cluster.wait(word, lambda word=word: word in cluster.kubectl("describe", "infdep", name))


@pytest.mark.parametrize(
    ("path", "files", "remedy"),
    [
        pytest.param("nowhere", (), "nowhere", id="missing"),
        pytest.param("pickled", ("config.json", "tokenizer.json", "pytorch_model.bin"), "convert", id="pickle"),
    ],
)
def test_a_model_that_cannot_be_served_says_so(
    cluster: LocalCluster, path: str, files: tuple[str, ...], remedy: str
) -> None:
    name = f"refused-{path}"
    folder = cluster.directory / "bad-models" / path
    if files:
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text((story.MODELS / "scripture-5m" / file).read_text() if "json" in file else "x")
    cluster.directory.joinpath("bad-models").mkdir(exist_ok=True)
    cluster.volume("default", f"bad-{path}", cluster.directory / "bad-models")
    body = manifest(name)
    body["spec"]["model"]["source"] = f"pvc://bad-{path}/{path}"
    cluster.apply(body)
    try:
        refused = cluster.wait(
            "ModelValid=False",
            lambda: (found := condition(cluster, name, "ModelValid"))["status"] == "False" and found,
        )
        assert refused["reason"] == "ModelRefused"
        assert remedy in refused["message"]
        assert condition(cluster, name, "Ready")["reason"] == "ModelRefused"
        assert len(pods(cluster, name)) == 1  # a broken model is never multiplied
    finally:
        cluster.kubectl("delete", "infdep", name)


def test_what_is_deleted_takes_its_children_along(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy()
    wait_ready(cluster, name, 1)
    cluster.kubectl("delete", "infdep", name)
    cluster.wait("pods gone", lambda: not pods(cluster, name))
    cluster.wait("Service gone", lambda: not cluster.kubectl("get", "service", name, "--ignore-not-found"))


def test_a_full_cluster_is_said_in_the_schedulers_words(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    name = deploy(minReplicas=5, maxReplicas=6, unschedulableAfter="5s")  # the nodes have four GPUs together
    full = cluster.wait(
        "GPUCapacity=False",
        lambda: (found := condition(cluster, name, "GPUCapacity"))["status"] == "False" and found,
    )
    assert full["reason"] == "InsufficientGPU"
    assert "Insufficient nvidia.com/gpu" in full["message"]
    cluster.wait("four serve all the same", lambda: status(cluster, name).get("readyReplicas") == 4)
    assert len(pods(cluster, name)) == 5


def test_the_operator_has_no_more_rights_than_it_needs(cluster: LocalCluster) -> None:
    account = f"system:serviceaccount:{story.RELEASE_NAMESPACE}:headrace"

    def can(*words: str) -> bool:
        try:
            answer = cluster.kubectl("auth", "can-i", *words, "--as", account, "-n", "default")
        except CommandFailed as refused:  # kubectl ends with status 1 when it says no
            answer = refused.stderr
        return {"yes": True, "no": False}[answer.split()[-1]]

    assert can("create", "pods")
    assert can("patch", "inferencedeployments.headrace.dev", "--subresource=status")
    for words in (
        ("get", "secrets"),
        ("update", "inferencedeployments.headrace.dev"),
        ("list", "configmaps"),
        ("create", "daemonsets"),
        ("create", "roles"),
    ):
        assert not can(*words)
