"""The replicas of one deployment, from the API server: a list, then what changes, then a list again.

While the API server does not answer, what was last known goes on being used: replicas do not leave with it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio import client, watch

from headrace_router.values import Endpoint, Ports

DEPLOYMENT_LABEL = "headrace.dev/deployment"
ROUTABLE_LABEL = "headrace.dev/routable"
GRPC_PORT, HTTP_PORT = 50051, 8000  # of a server that nobody told otherwise
LIST_AGAIN = 60  # seconds: a watch that has silently stopped costs no more than this
RETRY = 1.0  # seconds
PATIENCE = 10.0  # seconds for a list, and beyond LIST_AGAIN for a watch that never ends
Pod = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Of one InferenceDeployment."""

    namespace: str
    deployment: str

    @property
    def selector(self) -> str:
        return f"{DEPLOYMENT_LABEL}={self.deployment},{ROUTABLE_LABEL}=true"


async def endpoints(api: client.CoreV1Api, replicas: Replicas) -> AsyncIterator[tuple[Endpoint, ...]]:
    """Whenever something may have changed. Never ends, and raises nothing but what cancels it."""
    while True:
        try:
            async for found in _once(api, replicas):
                yield found
        except (client.ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the API server did not list the replicas: %s: %s", type(error).__name__, error)
            await asyncio.sleep(RETRY)


async def _once(api: client.CoreV1Api, replicas: Replicas) -> AsyncIterator[tuple[Endpoint, ...]]:
    answer = await api.list_namespaced_pod_without_preload_content(
        replicas.namespace, label_selector=replicas.selector, _request_timeout=PATIENCE
    )
    if answer.status != HTTPStatus.OK:
        raise client.ApiException(status=answer.status, reason=answer.reason)
    listed = await answer.json()
    pods: dict[str, Pod] = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
    yield _usable(pods)
    events = watch.Watch().stream(
        api.list_namespaced_pod, replicas.namespace, label_selector=replicas.selector,
        resource_version=listed["metadata"]["resourceVersion"],
        timeout_seconds=LIST_AGAIN, _request_timeout=LIST_AGAIN + PATIENCE,
    )  # fmt: skip
    async with events:
        async for event in events:
            pod = event["raw_object"]
            if event["type"] == "DELETED":  # likewise when the label routable is taken away
                pods.pop(pod["metadata"]["uid"], None)
            else:
                pods[pod["metadata"]["uid"]] = pod
            yield _usable(pods)


def _usable(pods: Mapping[str, Pod]) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(uid, pod["metadata"]["name"], pod["status"]["podIP"], ports(pod))
        for uid, pod in sorted(pods.items())
        if usable(pod)
    )


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
