"""The machines of a local cluster, as they are described, and as node agents that run."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.addresses import NodeAddresses
from cluster.processes import PACKAGES, Program

GRACE = 2.0  # seconds for an agent to end its pods by itself


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What a node offers. Only GPUs, CPUs and memory are counted by the scheduler; nothing limits a process."""

    name: str
    gpus: int = 0
    cpus: int = 16
    memory: str = "64Gi"  # a Kubernetes quantity
    at_start: bool = True  # False: joins when LocalCluster.start_node says so


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What all nodes of a cluster share."""

    images: Mapping[str, Path]  # image repository -> folder of its programs
    image_pull_delay: float  # s
    start_delay: float  # s, between "pulled" and the container's first instruction


def agent(
    shape: NodeShape,
    addresses: NodeAddresses,
    settings: NodeSettings,
    *,
    kubeconfig: Path,
    directory: Path,
    proxy: bool,
    held: Sequence[int],
) -> Program:
    """The agent of one node, not started. `proxy`: it routes Services, which one agent of a cluster does."""
    command: list[str | Path] = [
        "env", f"PYTHONPATH={PACKAGES}", sys.executable, "-m", "cluster.node",
        "--kubeconfig", kubeconfig, "--node", shape.name, "--directory", directory,
        "--gpus", str(shape.gpus), "--cpus", str(shape.cpus), "--memory", shape.memory,
        "--address", str(addresses.address), "--pod-cidr", str(addresses.pods),
        "--image-pull-delay", str(settings.image_pull_delay), "--start-delay", str(settings.start_delay),
    ]  # fmt: skip
    for repository, programs in settings.images.items():
        command += ["--image", f"{repository}={programs}"]
    directory.mkdir(parents=True, exist_ok=True)
    return Program(
        f"node {shape.name}",
        [*command, *(["--proxy"] if proxy else [])],
        directory / "agent.log",
        grace=GRACE,
        held=held,
    )


def proxy_rights(user: str) -> list[tuple[str, dict[str, object]]]:
    """What the routing agent needs beyond a node's rights: all Pods, because there are no EndpointSlices to read.

    Collection paths and objects, to be created.
    """
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", "local-service-proxy"
    api = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]}]
    return [
        (f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": rules}),
        (
            f"{rbac}/clusterrolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
            },
        ),
    ]
