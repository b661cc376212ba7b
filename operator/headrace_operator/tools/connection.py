"""From a kubeconfig to the API server as its user, and from what goes wrong to one line with the remedy."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.aio import client, config
from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

from headrace_operator import kube
from headrace_operator.decide import manifests
from headrace_operator.kube import ApiUnavailable, Body, Kube, KubeError

FIELD_MANAGER = "headrace-cli"  # a person's own write, as managedFields show it


class ToolFailed(Exception):
    """What a person did not get, in one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Connection:
    api: Kube
    namespace: str
    server: str  # the API server's address


Work = Callable[[Connection, argparse.Namespace], Awaitable[int]]


def run(work: Work, options: argparse.Namespace) -> int:
    """The exit status of `work`; 1, with one line on standard error, when the cluster refuses or does not answer."""
    configured = client.Configuration()
    try:
        return asyncio.run(_work(work, options, configured))
    except (ToolFailed, KubeError, config.ConfigException, OSError) as error:
        sys.stderr.write(f"headrace: {_told(error, configured.host)}\n")
        return 1


async def _work(work: Work, options: argparse.Namespace, configured: Any) -> int:
    place = _kubeconfig(options.kubeconfig)
    login = await config.load_kube_config(
        config_file=place, context=options.context, client_configuration=configured, persist_config=False
    )
    namespace = options.namespace or _namespace(place, options.context)
    # Tokens of `aws`, `gke-gcloud-auth-plugin` and the like end after minutes; `headrace ui` runs for hours.
    renewing = asyncio.create_task(config.refresh_token(login, configured))
    try:
        async with Kube(configured, FIELD_MANAGER) as api:
            return await work(Connection(api, namespace, configured.host), options)
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)  # one that failed shows as the 401 that follows


def _kubeconfig(named: str | None) -> str:
    """One file, or several with colons between, as kubectl takes them."""
    place = named or KUBE_CONFIG_DEFAULT_LOCATION
    if not any(Path(part).expanduser().is_file() for part in place.split(":") if part):
        raise ToolFailed(f"no kubeconfig at {place}; name one with --kubeconfig or $KUBECONFIG")
    return place


def _namespace(place: str, context: str | None) -> str:
    contexts, current = config.list_kube_config_contexts(place)
    chosen = next((known for known in contexts if known["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


async def find(connection: Connection, name: str) -> Body:
    """The InferenceDeployment. Raises ToolFailed when there is none of that name."""
    try:
        return await connection.api.get(kube.objects(connection.namespace, name))
    except KubeError as error:
        if error.status != 404 or not _names(error, name):
            raise
        there = f"no InferenceDeployment {name} in namespace {connection.namespace}"
        raise ToolFailed(f"{there}; `headrace status --all-namespaces` lists all") from None


async def pods(connection: Connection, name: str) -> list[Body]:
    """All pods of one InferenceDeployment, those that leave included."""
    mine = f"{manifests.DEPLOYMENT_LABEL}={name}"
    found = await connection.api.get(kube.pods(connection.namespace), labelSelector=mine)
    items: list[Body] = found["items"]
    return items


def _names(error: KubeError, name: str) -> bool:
    """Whether the object is missing, and not its kind."""
    return f'"{name}"' in str(error)


def _told(error: Exception, server: str) -> str:
    if isinstance(error, KubeError):
        return "; ".join(part for part in (str(error), remedy(error, server)) if part)
    if isinstance(error, config.ConfigException):
        return f"the kubeconfig does not lead to a cluster: {error}; see `kubectl config get-contexts`"
    return str(error)


def remedy(error: KubeError, server: str) -> str:
    """What a person can do about it; empty where only the error itself can say. `server`: the API server's address."""
    if isinstance(error, ApiUnavailable):
        return f"is {server} the cluster that you mean? See `kubectl config current-context`"
    return _REMEDIES.get(error.status, "")


_REMEDIES = {
    401: "the cluster does not know you: log in again, or choose another --context",
    403: "ask for the `view` role to look and the `edit` role to change in this namespace",
    404: "is Headrace installed here? `helm install headrace charts/headrace` brings InferenceDeployments",
}
