"""The custom resource's schema on a cluster that has no Helm release."""

from pathlib import Path

from cluster import LocalCluster

CRD = Path(__file__).parents[2] / "crds" / "inferencedeployments.headrace.dev.yaml"
ESTABLISHED = ("wait", "--for=condition=Established", "crd/inferencedeployments.headrace.dev", "--timeout=300s")


def install(cluster: LocalCluster) -> None:
    """Returns when objects can be made. kubectl's own wait fails on an object that has no conditions yet."""
    cluster.apply(CRD)
    cluster.wait("the schema to be served", lambda: cluster.kubectl(*ESTABLISHED))
