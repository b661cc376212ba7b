"""Runs `headrace` and `kubectl headrace` as a person with a kubeconfig does."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import LocalCluster

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    out: str
    err: str


def headrace(cluster: LocalCluster, *words: str, **environment: str) -> Said:
    """`environment` on top of what reaches the cluster, e.g. KUBECONFIG."""
    return _run(cluster, [str(PROGRAMS / "headrace"), *words], environment)


def kubectl_headrace(cluster: LocalCluster, *words: str) -> Said:
    """Through the cluster's real kubectl, which looks for its plugins on the PATH."""
    return _run(cluster, ["kubectl", "headrace", *words], {})


def _run(cluster: LocalCluster, command: list[str], environment: dict[str, str]) -> Said:
    reached = {**cluster.env({"PATH": f"{PROGRAMS}:/usr/bin:/bin"}), "HOME": str(cluster.directory), **environment}
    done = subprocess.run(command, env=reached, capture_output=True, text=True, check=False, timeout=300)
    return Said(done.returncode, done.stdout, done.stderr)
