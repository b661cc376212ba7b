"""A deployment that embeds becomes Ready and answers, from the example manifest and real weights on a claim."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from cluster import LocalCluster
from demo import story
from deployments import manifest, pods, wait_ready
from minilm import minilm
from openai import BadRequestError, OpenAI

pytestmark = pytest.mark.e2e
EXAMPLE = Path(__file__).parents[2] / "examples" / "embedder.yaml"


def test_a_manifest_with_task_embed_becomes_pods_that_embed(cluster: LocalCluster) -> None:
    name = "embedder"
    cluster.volume("default", "embedders", minilm().parent)
    body = yaml.safe_load(EXAMPLE.read_text())
    body["spec"]["model"]["source"] = f"pvc://embedders/{minilm().name}"
    body["spec"]["autoscaling"] = manifest(name)["spec"]["autoscaling"]
    cluster.apply(body)
    try:
        wait_ready(cluster, name, 1)
        (pod,) = pods(cluster, name)
        assert "--task=embed" in pod["spec"]["containers"][0]["args"]
        client = OpenAI(base_url=f"{story.doors(cluster, name).http}/v1", api_key="unused")
        texts = ["the wheel turns in the water", "water turns the wheel", "a bank lends money"]
        found = [one.embedding for one in client.embeddings.create(model=name, input=texts).data]
        near, far = np.dot(found[0], found[1]), np.dot(found[0], found[2])
        assert near > 0.6 > far
        with pytest.raises(BadRequestError, match="embeds and does not generate"):
            client.completions.create(model=name, prompt="In the beginning")
    finally:
        cluster.kubectl("delete", "infdep", name)
        cluster.wait("pods gone", lambda: not pods(cluster, name))
