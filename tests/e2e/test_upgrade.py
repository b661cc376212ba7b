"""docs/install.md, command by command, from the chart before: restricted namespaces, and pods that serve meanwhile.

`tests/support/released/` holds the chart as it was at 0.1.0, the last one with its schema in Helm's folder crds/.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import CommandFailed, LocalCluster, NodeShape
from demo import story
from deployments import manifest, pods, status, wait_ready
from runnable import Shell, blocks

pytestmark = pytest.mark.e2e
PAGE = story.ROOT / "docs" / "install.md"
BEFORE = Path(__file__).parents[1] / "support" / "released" / "headrace-0.1.0.tgz"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
CRD = "inferencedeployments.headrace.dev"
NAME = "live"
KEPT = "clusterrole.rbac.authorization.k8s.io/headrace-router"  # routers that the operator made go on needing it


def follow(cluster: LocalCluster, session: str, *, folder: Path = story.ROOT) -> None:
    """What the page says, in a checkout at `folder`."""
    found = blocks(PAGE, session)
    assert found
    with Shell(folder, cluster.commands.environment(os.environ)) as shell:  # noqa: TID251
        for block in found:
            shell.follow(block, PAGE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The version before, at work in namespaces that admit only what is restricted."""
    nodes = (NodeShape("gpu", gpus=4),)
    with LocalCluster(tmp_path_factory.mktemp("upgrade"), nodes=nodes, images=story.IMAGES) as running:
        follow(running, "prepare")
        running.kubectl("label", "namespace", "default", RESTRICTED)
        running.helm("install", "headrace", BEFORE, "--namespace", story.RELEASE_NAMESPACE, "--wait", "--timeout=300s")
        running.volume("default", "models", story.MODELS)
        running.apply(manifest(NAME, autoscaling={"minReplicas": 2, "maxReplicas": 2}))
        wait_ready(running, NAME, 2)
        yield running


def lives(cluster: LocalCluster) -> dict[str, int]:
    """The UID of each served pod, with the restarts of its container."""
    return {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods(cluster, NAME)
    }


def schema(cluster: LocalCluster) -> dict[str, Any]:
    (version,) = cluster.object("crd", CRD)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def newer(folder: Path) -> Path:
    """A checkout of a next version: a field more in the schema, and another server image."""
    chart = folder / "charts" / "headrace"
    shutil.copytree(story.CHART, chart)
    file = chart / "files" / "crds" / f"{CRD}.yaml"
    text = file.read_text()
    place = "                replicas:\n"
    assert text.count(f"properties:\n{place}") == 1
    file.write_text(text.replace(place, f"                colour: {{type: string, description: Newer.}}\n{place}", 1))
    about = chart / "Chart.yaml"
    about.write_text(re.sub(r"^(version|appVersion): .*", r"\1: 9.9.9", about.read_text(), flags=re.MULTILINE))
    return folder


def test_an_upgrade_brings_the_schema_and_touches_no_pod(cluster: LocalCluster, tmp_path: Path) -> None:
    before = lives(cluster)
    uid = cluster.object("infdep", NAME)["metadata"]["uid"]
    with pytest.raises(AssertionError, match="invalid ownership metadata"):
        follow(cluster, "upgrade")  # the schema is not this release's yet
    follow(cluster, "take-over")
    assert cluster.object("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "headrace"

    coloured = manifest(NAME, autoscaling={"minReplicas": 2, "maxReplicas": 3}, colour="blue")
    with pytest.raises(CommandFailed, match="unknown field"):
        cluster.apply(coloured)
    checkout = newer(tmp_path)
    for _ in range(2):  # the second time, nothing is left to do; the take-over was needed once
        follow(cluster, "upgrade", folder=checkout)
    assert schema(cluster)["properties"]["spec"]["properties"]["colour"]["description"] == "Newer."
    cluster.apply(coloured)
    generation = cluster.object("infdep", NAME)["metadata"]["generation"]
    cluster.wait("the edit is seen", lambda: status(cluster, NAME)["observedGeneration"] == generation)

    assert lives(cluster) == before
    assert cluster.object("infdep", NAME)["metadata"]["uid"] == uid
    assert cluster.object("infdep", NAME)["spec"]["colour"] == "blue"


def test_what_an_uninstall_leaves_is_taken_up_again_and_then_taken_away(cluster: LocalCluster) -> None:
    before = lives(cluster)
    follow(cluster, "uninstall")
    left = cluster.kubectl("get", "validatingadmissionpolicies,clusterroles,deployments", "-A", "-o", "name")
    assert [line for line in left.splitlines() if "headrace" in line] == [KEPT]
    follow(cluster, "install")
    wait_ready(cluster, NAME, 2)
    assert lives(cluster) == before
    follow(cluster, "uninstall")
    follow(cluster, "remove")
    assert KEPT not in cluster.kubectl("get", "clusterroles", "-o", "name")
    cluster.wait("nothing serves any more", lambda: not pods(cluster, NAME))
