"""The Node object: what it offers, that it is Ready, and the Lease that says so again and again."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import aiohttp

from cluster.node.api import Api, ApiError
from cluster.node.clock import micro_timestamp, timestamp

logger = logging.getLogger(__name__)
RENEW = 5.0  # s; the node lifecycle controller waits 40 s and more
LEASE_SECONDS = 40
VERSION = "v1.36.3"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the scheduler may count on."""

    name: str
    address: str
    gpus: int
    cpus: int
    memory: str  # Kubernetes quantity

    @property
    def capacity(self) -> dict[str, str]:
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": str(self.cpus), "memory": self.memory, "pods": "110", "ephemeral-storage": "100Gi", **gpus}


async def register(api: Api, offer: Offer, kubelet_port: int) -> None:
    """Create the Node if it is not there, and say that it is Ready."""
    labels = {
        "kubernetes.io/hostname": offer.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "local",
    }
    try:
        await api.create("/api/v1/nodes", {"metadata": {"name": offer.name, "labels": labels}})
    except ApiError as error:
        if error.status != 409:
            raise
    await api.merge(f"/api/v1/nodes/{offer.name}/status", {"status": _status(offer, kubelet_port)})


def _status(offer: Offer, kubelet_port: int) -> dict[str, Any]:
    now = timestamp()
    conditions = [("Ready", "True", "AgentReady")]
    conditions += [(kind, "False", "Enough") for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")]
    return {
        "capacity": offer.capacity,
        "allocatable": offer.capacity,
        "addresses": [{"type": "InternalIP", "address": offer.address}, {"type": "Hostname", "address": offer.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        "nodeInfo": {
            "kubeletVersion": VERSION, "kubeProxyVersion": VERSION, "operatingSystem": "linux", "architecture": "amd64",
            "containerRuntimeVersion": "local-process://1", "osImage": "this machine", "kernelVersion": "",
            "machineID": offer.name, "systemUUID": offer.name, "bootID": offer.name,
        },
        "conditions": [
            {
                "type": kind, "status": status, "reason": reason, "message": reason, "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
            for kind, status, reason in conditions
        ],
    }  # fmt: skip


async def keep_alive(api: Api, offer: Offer, kubelet_port: int) -> None:
    """Renew the Lease for ever; after an outage that made the node NotReady, say again that it is Ready."""
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    failed = False
    while True:
        try:
            await _renew(api, path, offer.name)
            if failed:
                await register(api, offer, kubelet_port)
            failed = False
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("cannot renew the node's Lease: %s: %s", type(error).__name__, error)
            failed = True
        await asyncio.sleep(RENEW)


async def _renew(api: Api, path: str, name: str) -> None:
    spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro_timestamp()}
    try:
        await api.merge(f"{path}/{name}", {"spec": spec})
    except ApiError as error:
        if error.status != 404:
            raise
        await api.create(path, {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec})
