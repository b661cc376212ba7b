"""The chart as an administrator uses it: limited to namespaces, and taken away again."""

from collections.abc import Callable, Iterator

import pytest
from cluster import LocalCluster
from cluster.commands import CommandFailed
from demo import story
from deployments import manifest, pods, upgrade, wait_ready

pytestmark = pytest.mark.e2e
ACCOUNT = f"system:serviceaccount:{story.RELEASE_NAMESPACE}:headrace"
ELSEWHERE = "elsewhere"  # a namespace that the operator is not to look at


@pytest.fixture
def only_default(cluster: LocalCluster) -> Iterator[None]:
    """The operator watches the namespace `default` alone, and nodes."""
    upgrade(cluster, "--set", "watchNamespaces={default}", "--set", "watchNodes=true")
    yield
    upgrade(cluster)


def owned(cluster: LocalCluster, owner: str) -> list[str]:
    """Names of everything in the namespace that this object owns."""
    kinds = "pods,services,poddisruptionbudgets,controllerrevisions"
    items = cluster.object(kinds)["items"]
    references = [(item["metadata"]["name"], item["metadata"].get("ownerReferences", [])) for item in items]
    return [name for name, owners in references if owner in {reference["uid"] for reference in owners}]


def may(cluster: LocalCluster, verb: str, resource: str, *where: str) -> bool:
    """Does the operator's account have this right?"""
    try:
        return cluster.kubectl("auth", "can-i", verb, resource, f"--as={ACCOUNT}", *where).strip() == "yes"
    except CommandFailed:  # kubectl's exit status is the answer
        return False


@pytest.mark.usefixtures("only_default")
def test_an_operator_of_one_namespace_leaves_the_others_alone_and_still_sees_nodes(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    assert may(cluster, "create", "pods", "--namespace=default")
    assert not may(cluster, "list", "pods", f"--namespace={ELSEWHERE}")
    assert not may(cluster, "list", "inferencedeployments", "--all-namespaces")
    cluster.kubectl("create", "namespace", ELSEWHERE)
    other = manifest("not-ours")
    cluster.apply({**other, "metadata": {**other["metadata"], "namespace": ELSEWHERE}})
    name = deploy(minReplicas=1, maxReplicas=1)
    wait_ready(cluster, name, 1)
    (old,) = pods(cluster, name)
    cluster.kubectl("cordon", old["spec"]["nodeName"])
    try:
        cluster.wait("its replacement", lambda: len(pods(cluster, name)) == 2)
    finally:
        cluster.kubectl("uncordon", old["spec"]["nodeName"])
    assert "status" not in cluster.object("infdep", "not-ours", f"--namespace={ELSEWHERE}")
    assert cluster.pods(ELSEWHERE, "") == []
    cluster.kubectl("delete", "infdep", "not-ours", f"--namespace={ELSEWHERE}")


def test_after_an_uninstall_a_deployment_goes_with_its_pods_and_nothing_holds_it(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    name = deploy(minReplicas=2, maxReplicas=2)
    wait_ready(cluster, name, 2)
    cluster.helm("uninstall", "headrace", "--namespace", story.RELEASE_NAMESPACE, "--wait", "--timeout", "300s")
    try:
        assert len(pods(cluster, name)) == 2  # what serves goes on
        owner = cluster.object("infdep", name)["metadata"]["uid"]
        assert len(owned(cluster, owner)) == 5  # two pods, their Service, budget and revision
        assert "finalizers" not in cluster.object("infdep", name)["metadata"]
        cluster.kubectl("delete", "infdep", name)  # returns when it is gone, though nobody is there to let it go
        cluster.wait("its pods are gone, and all that was made for it", lambda: not owned(cluster, owner))
    finally:
        story.install(cluster)
