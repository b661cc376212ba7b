"""InferenceDeployments on the local cluster, as the end-to-end tests make and watch them."""

import urllib.request
from typing import Any

import psutil
from cluster import LocalCluster
from demo import story

Body = dict[str, Any]
OPERATORS = "app.kubernetes.io/name=headrace-operator"


def manifest(name: str, *, path: str = "scripture-5m", autoscaling: Body | None = None, **spec: Any) -> Body:
    """A manifest for the local cluster: CPU, one GPU reserved, few slots, so that a handful of users makes a queue."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"source": f"pvc://models/{path}", "device": "cpu", "dtype": "float32"},
            "autoscaling": {"scaleDownWindow": "5s", "targets": {"queueWaitP95": "200ms"}, **(autoscaling or {})},
            "batching": {"maxRunning": 2},
            "drain": {"timeout": "60s"},
            **spec,
        },
    }


def pods(cluster: LocalCluster, name: str) -> list[Body]:
    """All pods of a deployment, terminating ones included."""
    return cluster.pods("default", f"headrace.dev/deployment={name}")


def status(cluster: LocalCluster, name: str) -> Body:
    value: Body = cluster.object("infdep", name).get("status", {})
    return value


def condition(cluster: LocalCluster, name: str, kind: str) -> Body:
    """Raises LookupError while the condition is not there, which a wait takes as "not yet"."""
    found: list[Body] = [c for c in status(cluster, name).get("conditions", []) if c["type"] == kind]
    return found[0]


def wait_ready(cluster: LocalCluster, name: str, replicas: int) -> None:
    def settled() -> bool:
        now = status(cluster, name)
        return now.get("readyReplicas") == now.get("replicas") == replicas

    cluster.wait(f"{replicas} replicas of {name} ready", settled)


def upgrade(cluster: LocalCluster, *options: str) -> None:
    """Of the release, to these options and no others; returns when an operator of the new template leads.

    Helm waits until the new pods are ready. One of the old ones may still lead while it ends.
    """
    where = ("--namespace", story.RELEASE_NAMESPACE, "--wait", "--timeout", "300s")
    cluster.helm("upgrade", "headrace", str(story.CHART), "--reset-values", *where, *options)  # else old values stay

    def is_led() -> bool:
        found = cluster.pods(story.RELEASE_NAMESPACE, OPERATORS)
        kept = {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]}
        return leader(cluster) in kept

    cluster.wait("an operator of the new template leads", is_led)


def leader(cluster: LocalCluster) -> str:
    """The name of the operator's pod that holds the Lease; empty while nobody does."""
    lease = cluster.object("lease", "headrace", "-n", story.RELEASE_NAMESPACE)
    return str(lease["spec"]["holderIdentity"])


def operator_process(cluster: LocalCluster) -> psutil.Process:
    """The operator that leads, found by the pod name that it is told to be. Raises LookupError."""
    identity = f"--identity={leader(cluster)}"
    for process in psutil.process_iter(["cmdline"]):
        if identity in (process.info["cmdline"] or ()):
            return process
    raise LookupError(f"no operator process with {identity}")


def expositions(cluster: LocalCluster) -> list[str]:
    """/metrics of each operator."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    texts = []
    for pod in cluster.pods(story.RELEASE_NAMESPACE, OPERATORS):
        with opener.open(f"http://{pod['status']['podIP']}:8080/metrics", timeout=60) as answer:
            texts.append(answer.read().decode())
    return texts
