"""A real control plane whose nodes are played by one process, with the operator's own service account and rights."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import schema
import yaml
from cluster import LocalCluster
from cluster.processes import PACKAGES, Program
from cluster.users import User
from deployments import Body
from operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "headrace"
SUPPORT = Path(__file__).parent
ACCOUNT = "headrace"  # of the chart, when it is installed under this name
RBAC = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}


@contextmanager
def kubelet_free(directory: Path, *flags: str) -> Iterator[tuple[LocalCluster, Program]]:
    """The cluster, and the program that plays its nodes; `flags` are those of `python -m fake_nodes`."""
    with LocalCluster(directory, nodes=()) as cluster:
        schema.install(cluster)
        cluster.apply(*chart(cluster, RBAC))
        cluster.volume("default", "models", directory)  # bound, and read by nobody
        nodes = fake_nodes(cluster, *flags)
        nodes.start()
        try:
            cluster.wait("the nodes", lambda: "nodes" in nodes.log.read_text())
            yield cluster, nodes
        finally:
            nodes.stop()


def fake_nodes(cluster: LocalCluster, *flags: str) -> Program:
    paths = f"PYTHONPATH={PACKAGES}:{SUPPORT}"
    command: list[str | Path] = ["env", paths, sys.executable, "-m", "fake_nodes", "--kubeconfig", cluster.kubeconfig]
    share = int(address(cluster).split(".")[1]) - 1
    return Program(
        "fake nodes", [*command, f"--share={share}", *flags], cluster.directory / "fake-nodes.log", grace=2.0
    )


def chart(cluster: LocalCluster, kinds: set[str]) -> list[Body]:
    """The chart's objects of these kinds, as `helm install headrace --namespace default` would make them."""
    text = cluster.helm("template", "headrace", str(CHART), "--namespace", "default")
    return [body for body in yaml.safe_load_all(text) if body and body["kind"] in kinds]


def account(cluster: LocalCluster) -> User:
    """The operator's own identity, with a token as a pod would get one."""
    return User(ACCOUNT, (), cluster.kubectl("create", "token", ACCOUNT, "--duration=1h").strip())


def operator(
    cluster: LocalCluster, kubeconfig: Path, identity: str, *more: str, interval: float = 0.5
) -> OperatorProcess:
    host = address(cluster)
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    log = cluster.directory / f"operator-{identity}.log"
    return OperatorProcess(
        kubeconfig, log, identity=identity, address=host, port=port, interval=interval, more=tuple(more)
    )


def address(cluster: LocalCluster) -> str:
    """Loopback, of this cluster alone."""
    host = urlsplit(cluster.api.server).hostname
    assert host
    return host


def manifest(name: str, *, replicas: int = 1, most: int | None = None, **spec: Any) -> Body:
    """Nobody loads a model here, so nothing of it matters."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"source": "pvc://models/any", "device": "cpu", "dtype": "float32"},
            "autoscaling": {"minReplicas": replicas, "maxReplicas": most or replicas, "scaleDownWindow": "1s"},
            "drain": {"timeout": "5s"},
            **spec,
        },
    }
