"""The replicas of one deployment, from its pods: who may be given requests, and who hears copies of them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.aio import client

from headrace_router.observe.watched import Listing, objects
from headrace_router.values import Endpoint, Found, Ports

GROUP = "headrace.dev"
DEPLOYMENT_LABEL, REVISION_LABEL = f"{GROUP}/deployment", f"{GROUP}/revision"
ROUTABLE_LABEL, ROLE_LABEL = f"{GROUP}/routable", f"{GROUP}/role"
SHADOW = "shadow"  # the role of a pod that hears copies
GRPC_PORT, HTTP_PORT = 50051, 8000  # of a server that nobody told otherwise
Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replicas:
    """Of one InferenceDeployment."""

    namespace: str
    deployment: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.deployment}"


async def endpoints(api: client.ApiClient, replicas: Replicas) -> AsyncIterator[Found]:
    """Whenever something may have changed. Never ends, and raises nothing but what cancels it."""
    core = client.CoreV1Api(api)
    selector = {"label_selector": f"{DEPLOYMENT_LABEL}={replicas.deployment}"}
    listing = Listing(
        "replicas", core.list_namespaced_pod_without_preload_content, core.list_namespaced_pod,
        (replicas.namespace,), selector,
    )  # fmt: skip
    async for pods in objects(listing):
        yield found(pods)


def found(pods: Mapping[str, Pod]) -> Found:
    """`pods`: by UID. Warm standby and draining pods are in neither part."""
    ready = [pod for _, pod in sorted(pods.items()) if usable(pod)]
    shadows = [pod for pod in ready if pod["metadata"].get("labels", {}).get(ROLE_LABEL) == SHADOW]
    serving = [
        pod for pod in ready if pod not in shadows and pod["metadata"].get("labels", {}).get(ROUTABLE_LABEL) == "true"
    ]
    return Found(tuple(_endpoint(pod) for pod in serving), tuple(_endpoint(pod) for pod in shadows))


def _endpoint(pod: Pod) -> Endpoint:
    about = pod["metadata"]
    revision = about.get("labels", {}).get(REVISION_LABEL, "")
    return Endpoint(about["uid"], about["name"], pod["status"]["podIP"], ports(pod), revision)


def usable(pod: Pod) -> bool:
    """Ready, with an address, and not being deleted."""
    status = pod.get("status", {})
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
    return ready and bool(status.get("podIP")) and "deletionTimestamp" not in pod["metadata"]


def ports(pod: Pod) -> Ports:
    """As the pod's first container names them; a server's own where it names none."""
    named = {each.get("name"): each["containerPort"] for each in pod["spec"]["containers"][0].get("ports", ())}
    http = named.get("http", HTTP_PORT)
    return Ports(named.get("grpc", GRPC_PORT), http, named.get("admin", http))
