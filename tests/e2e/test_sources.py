"""Where a model may come from, and what its pods may be told, on the real control plane."""

from pathlib import Path

import pytest
import torch
from adapters import write_adapter
from checkpoints import Checkpoint
from cluster import LocalCluster
from demo import story
from deployments import condition, manifest, pods, wait_ready
from openai import OpenAI
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.e2e
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill(cache: Path) -> None:
    """A Hugging Face cache, as `hf download` leaves it: a snapshot of links to blobs, and a ref that names it."""
    repository = cache / "models--headrace--scripture"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repository / folder).mkdir(parents=True)
    for number, file in enumerate(sorted((story.MODELS / "scripture-1m").iterdir())):
        (repository / "blobs" / str(number)).write_bytes(file.read_bytes())
        (repository / "snapshots" / COMMIT / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (repository / "refs" / "main").write_text(COMMIT)


def test_a_model_of_a_hub_cache_is_served_by_pods_placed_as_asked(cluster: LocalCluster) -> None:
    name = "from-a-hub"
    fill(cluster.directory / "hub")
    cluster.volume("default", "hub", cluster.directory / "hub")
    fields = {
        "nodeSelector": {"kubernetes.io/hostname": "gpu-b"},
        "topologySpread": [{"topologyKey": "kubernetes.io/hostname"}],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "labels": {"team": "scribes"},
        "annotations": {"example.com/owner": "ezra"},
    }
    body = manifest(name, pod=fields)
    body["spec"]["model"] |= {"source": "hf://headrace/scripture", "cacheClaim": "hub"}
    cluster.apply(body)
    try:
        wait_ready(cluster, name, 1)
        (pod,) = pods(cluster, name)
        assert pod["spec"]["nodeName"] == "gpu-b"
        assert pod["metadata"]["labels"]["team"] == "scribes"
        assert pod["metadata"]["annotations"]["example.com/owner"] == "ezra"
        client = OpenAI(base_url=f"{story.doors(cluster, name).http}/v1", api_key="unused")
        assert client.completions.create(model=name, prompt="In the beginning", max_tokens=4).choices[0].text
    finally:
        cluster.kubectl("delete", "infdep", name)
        cluster.wait("pods gone", lambda: not pods(cluster, name))


def test_a_request_names_an_adapter_that_lies_in_a_claim_of_its_own(cluster: LocalCluster) -> None:
    name = "with-adapters"
    model = story.MODELS / "scripture-1m"
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    write_adapter(cluster.directory / "adapters" / "poet", Checkpoint(model, reference), layers=(0, 1))
    cluster.volume("default", "adapters", cluster.directory / "adapters")
    body = manifest(name, path="scripture-1m")
    body["spec"]["model"] |= {"batchInvariant": True, "adapters": [{"name": "poet", "source": "pvc://adapters/poet"}]}
    cluster.apply(body)
    try:
        wait_ready(cluster, name, 1)
        client = OpenAI(base_url=f"{story.doors(cluster, name).http}/v1", api_key="unused")
        assert [card.id for card in client.models.list().data] == [name, "poet"]
        answers = {
            asked: client.completions.create(model=asked, prompt="In the beginning", max_tokens=8, temperature=0)
            for asked in (name, "poet")
        }
        assert answers["poet"].model == "poet"
        assert answers["poet"].choices[0].text != answers[name].choices[0].text
    finally:
        cluster.kubectl("delete", "infdep", name)
        cluster.wait("pods gone", lambda: not pods(cluster, name))


def test_more_gpus_than_the_server_can_use_are_refused_rather_than_left_idle(cluster: LocalCluster) -> None:
    name = "two-devices"
    cluster.apply(manifest(name, resources={"gpus": 2}))
    try:
        refused = cluster.wait(
            "ModelValid=False",
            lambda: (found := condition(cluster, name, "ModelValid"))["status"] == "False" and found,
        )
        assert "resources.gpus" in refused["message"]
    finally:
        cluster.kubectl("delete", "infdep", name)
        cluster.wait("pods gone", lambda: not pods(cluster, name))
