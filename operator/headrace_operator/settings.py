"""The operator's settings, read once in `__main__`. Each one says its effect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    namespaces: tuple[str, ...]  # watched; empty = all of them, which needs cluster-wide rights
    server_image: str  # runs when a manifest names no image; part of a pod's revision
    lease_name: str
    lease_namespace: str
    identity: str  # holder of the Lease
    interval: float  # seconds between two looks at an InferenceDeployment, at most
    host: str  # address of /metrics, /healthz, /readyz
    http_port: int
    service_account: Path  # folder with token and ca.crt
    kubeconfig: Path | None  # instead of the service account, for running by hand
    watch_nodes: bool = False  # replace a pod before its node goes; needs the right to list and watch nodes
    router_image: str | None = None  # of spec.routing.mode Headrace; None = it cannot be had
    router_role: str = "headrace-router"  # a ClusterRole with what a router may read
    gpu_budgets: Mapping[str, int] = field(default_factory=dict)  # by namespace: its deployments grow to this together
    # Ed25519, the line within the PEM, of those who may release a model; empty: a gate's report needs no signature.
    gate_keys: tuple[str, ...] = ()


SCRAPE_TIMEOUT = 2.0  # seconds; a silent pod costs this once, and delays no other pod
REQUEST_TIMEOUT = 5.0  # seconds for one try of any call to the API server
RELIST = 30.0  # seconds after which a watch that went silent is repaired by a full list
