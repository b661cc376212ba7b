"""One cluster with Headrace installed, as the README installs it, for all end-to-end tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import LocalCluster, NodeShape
from demo import story
from deployments import manifest, pods

NODES = (NodeShape("gpu-a", gpus=2), NodeShape("gpu-b", gpus=2))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    directory = tmp_path_factory.mktemp("cluster")
    images = {
        **story.IMAGES,
        "headrace-wrong-device": wrong_device(tmp_path_factory.mktemp("wrong-device")),
        "headrace-crashing": crashing(tmp_path_factory.mktemp("crashing")),
    }
    with LocalCluster(directory, nodes=NODES, images=images) as running:
        story.install(running)
        running.volume("default", "models", story.MODELS)
        yield running


@pytest.fixture
def deploy(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Apply an InferenceDeployment named after the test; it is gone, with its pods, when the test is over."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].rstrip("-")

    def apply(**autoscaling: Any) -> str:
        cluster.apply(manifest(name, autoscaling=autoscaling))
        return name

    yield apply
    cluster.kubectl("delete", "infdep", name, "--ignore-not-found")
    cluster.wait(f"pods of {name} gone", lambda: not pods(cluster, name))


def wrong_device(programs: Path) -> Path:
    """An image whose server computes on the CPU whatever device it is told: no real one would."""
    script = programs / "headrace"
    script.write_text(
        "#!/bin/sh\n"
        'for word; do shift; case $word in --device=*) word=--device=cpu ;; esac; set -- "$@" "$word"; done\n'
        f'exec {story.PROGRAMS / "headrace"} "$@"\n'
    )
    script.chmod(0o755)
    return programs


def crashing(programs: Path) -> Path:
    """An image whose server ends as soon as it is started."""
    script = programs / "headrace"
    script.write_text("#!/bin/sh\necho no device answers >&2\nexit 3\n")
    script.chmod(0o755)
    return programs
