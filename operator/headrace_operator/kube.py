"""The few calls we make to the API server, on plain dicts: explicit content type, and a timeout on every one.

An overloaded or failing server is asked again as it wishes (Retry-After), a few times; then the caller hears of it.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import client, config
from kubernetes.aio.utils import Backoff, on_retry_after_error

from headrace_operator.errors import OperatorError, Unavailable
from headrace_operator.settings import REQUEST_TIMEOUT, Settings

FIELD_MANAGER = "headrace"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
OBJECTS = "/apis/headrace.dev/v1alpha1"
OWN_PODS = "app.kubernetes.io/managed-by=headrace"

PATIENCE = Backoff(steps=4, duration=0.1, factor=4.0, jitter=0.5)  # tries; waits of 0.1, 0.4 and 1.6 s between them
LONGEST_WAIT = 10  # seconds; a server that asks for more is asked again later, by who called
SEATS = 16  # calls at once of all objects together: 500 at once made each of them time out, again and again
PAGE = "100"  # objects of one answer: reading 500 pods stops everything else for half a second

Body = dict[str, Any]


class KubeError(OperatorError):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        """`status`: HTTP, 0 where no answer came. `retry_after`: whole seconds that the server asks us to wait."""
        super().__init__(f"{status}: {message}")
        self.status = status
        self.headers = {"Retry-After": retry_after} if retry_after else {}


class ApiUnavailable(KubeError, Unavailable):
    """It is overloaded, failing, or does not answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One try of a call, once it is over."""

    method: str  # HTTP
    path: str
    content_type: str
    status: int  # HTTP, 0 where no answer came
    seconds: float


def nobody(call: Call) -> None:
    """Hears of calls where nobody counts them."""
    del call


def anyone() -> None:
    """The guard of a client that may always write."""


class Kube:
    """One connection pool to the API server. Use as `async with`."""

    def __init__(
        self, configuration: Any, field_manager: str = FIELD_MANAGER, heard: Callable[[Call], None] = nobody
    ) -> None:
        """`field_manager`: the name under which the API server remembers who wrote a field. `heard` of every try."""
        configuration.connection_pool_maxsize = 0  # no limit: calls that hang must not stand in the way of others
        configuration.client_session_kwargs = {"trust_env": False}  # else ~/.netrc is read, in a thread, at every call
        self._client = client.ApiClient(configuration)
        self._field_manager = field_manager
        self._heard = heard
        self._guard: Callable[[], None] = anyone
        self._seats = asyncio.Semaphore(sys.maxsize)

    def guarded(self, guard: Callable[[], None]) -> "Kube":
        """The same connections for one who may write only while `guard` does not raise: asked before every try.

        Its calls queue for SEATS, in which their time begins; ours do not wait for them.
        """
        other = copy(self)
        other._guard, other._seats = guard, asyncio.Semaphore(SEATS)  # noqa: SLF001 - of our own class
        return other

    async def __aenter__(self) -> "Kube":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, path: str, **query: str) -> Body:
        return await self._request("GET", path, query=query)

    async def pages(self, path: str, **query: str) -> AsyncIterator[Body]:
        """A list in parts, each with `items` and `metadata`. Raises KubeError; 410: a part was asked for too late."""
        more: dict[str, str] = {}
        while True:
            page = await self.get(path, limit=PAGE, **more, **query)
            yield page
            if not (token := page["metadata"].get("continue")):
                return
            more = {"continue": token}

    async def text(self, path: str, **query: str) -> str:
        """What is not JSON: a log, metrics."""
        return (await self._answer("GET", path, query=query)).decode(errors="replace")

    async def create(self, path: str, body: Body) -> Body:
        return await self._request("POST", path, body)

    async def replace(self, path: str, body: Body) -> Body:
        """Fails with 409 when the object's resourceVersion is not the one in `body`."""
        return await self._request("PUT", path, body)

    async def apply(self, path: str, body: Body) -> Body:
        """Server-side apply: the fields in `body` are ours, whoever had them."""
        query = {"fieldManager": self._field_manager, "force": "true"}
        return await self._request("PATCH", path, body, content_type=APPLY, query=query)

    async def merge(self, path: str, body: Body) -> Body:
        query = {"fieldManager": self._field_manager}
        return await self._request("PATCH", path, body, content_type=MERGE, query=query)

    async def delete(self, path: str, uid: str) -> None:
        """Only the object with this UID; one that is gone already, or replaced, is left alone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", path, body)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def _request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Body:
        data = await self._answer(method, path, body, content_type=content_type, query=query)
        answer: Body = json.loads(data)
        return answer

    async def _answer(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        request = await self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )

        async def once() -> bytes:
            async with self._seats:
                if method != "GET":
                    self._guard()
                return await self._timed(request, method, path, content_type)

        data: bytes = await on_retry_after_error(PATIENCE, lambda error: _may_repeat(method, error), once)
        return data

    async def _timed(self, request: tuple[str, str, Any, Any, Any], method: str, path: str, content_type: str) -> bytes:
        began, status = time.monotonic(), 0
        try:
            data = await self._once(request)
            status = 200
        except KubeError as error:
            status = error.status
            raise
        finally:
            self._heard(Call(method, path, content_type, status, time.monotonic() - began))
        return data

    async def _once(self, request: tuple[str, str, Any, Any, Any]) -> bytes:
        try:
            response = await self._client.call_api(*request, _request_timeout=REQUEST_TIMEOUT)
            data: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnavailable(0, f"no answer: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _error(response.status, data, response.headers.get("Retry-After"))
        return data


def _error(status: int, data: bytes, retry_after: str | None) -> KubeError:
    if status != 429 and status < 500:
        return KubeError(status, _message(data))
    wait = str(min(int(retry_after), LONGEST_WAIT)) if retry_after and retry_after.isdecimal() else None
    return ApiUnavailable(status, _message(data), wait)


def _may_repeat(method: str, error: Exception) -> bool:
    """A write is harmless when done twice, but for a POST; what was refused for the load was not done at all."""
    return isinstance(error, ApiUnavailable) and (method != "POST" or error.status == 429)


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message"))
    except (ValueError, AttributeError):
        return data.decode(errors="replace")[:500]


async def configuration(settings: Settings, environ: Mapping[str, str]) -> Any:
    """From the service account's folder (its token is read again every minute), or from a kubeconfig."""
    configured = client.Configuration()
    if settings.kubeconfig:
        await config.load_kube_config(config_file=str(settings.kubeconfig), client_configuration=configured)
    else:
        folder = settings.service_account
        config.incluster_config.InClusterConfigLoader(
            token_filename=str(folder / "token"), cert_filename=str(folder / "ca.crt"), environ=environ
        ).load_and_set(configured)
    return configured


def kopf_connection(configured: Any, settings: Settings) -> kopf.ConnectionInfo:
    """The same identity for Kopf's watches. Called again on every 401, so that a rotated token is picked up."""
    token = configured.api_key.get("BearerToken", "").removeprefix("Bearer ").removeprefix("bearer ")
    if not settings.kubeconfig:
        token = (settings.service_account / "token").read_text().strip()
    return kopf.ConnectionInfo(
        server=configured.host,
        ca_path=configured.ssl_ca_cert,
        token=token or None,
        certificate_path=_path(configured.cert_file),
        private_key_path=_path(configured.key_file),
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def objects(namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Path of InferenceDeployments: all, of one namespace, or one."""
    return _join(OBJECTS, namespace, "inferencedeployments", name, subresource)


def pods(namespace: str | None, name: str | None = None) -> str:
    return _join("/api/v1", namespace, "pods", name)


def services(namespace: str | None, name: str | None = None) -> str:
    return _join("/api/v1", namespace, "services", name)


def horizontal_pod_autoscalers(namespace: str | None) -> str:
    return _join("/apis/autoscaling/v2", namespace, "horizontalpodautoscalers")


def scaled_objects(namespace: str | None) -> str:
    """KEDA's; the API server answers 404 where KEDA is not installed."""
    return _join("/apis/keda.sh/v1alpha1", namespace, "scaledobjects")


def revisions(namespace: str | None, name: str | None = None) -> str:
    return _join("/apis/apps/v1", namespace, "controllerrevisions", name)


def nodes() -> str:
    return "/api/v1/nodes"


def disruption_budgets(namespace: str | None, name: str | None = None) -> str:
    return _join("/apis/policy/v1", namespace, "poddisruptionbudgets", name)


def deployments(namespace: str | None, name: str | None = None) -> str:
    return _join("/apis/apps/v1", namespace, "deployments", name)


def service_accounts(namespace: str | None, name: str | None = None) -> str:
    return _join("/api/v1", namespace, "serviceaccounts", name)


def role_bindings(namespace: str | None, name: str | None = None) -> str:
    return _join("/apis/rbac.authorization.k8s.io/v1", namespace, "rolebindings", name)


def inference_pools(namespace: str | None, name: str | None = None) -> str:
    """The API server answers 404 where the Gateway API Inference Extension is not installed."""
    return _join("/apis/inference.networking.k8s.io/v1", namespace, "inferencepools", name)


def events(namespace: str, name: str | None = None) -> str:
    return _join("/api/v1", namespace, "events", name)


def leases(namespace: str, name: str | None = None) -> str:
    return _join("/apis/coordination.k8s.io/v1", namespace, "leases", name)


def _join(prefix: str, namespace: str | None, kind: str, *rest: str | None) -> str:
    scope = ["namespaces", namespace] if namespace else []
    return "/".join([prefix, *scope, kind, *(part for part in rest if part)])


# What is written once a generation, by kind.
STANDING: Mapping[str, Callable[[str | None, str | None], str]] = {
    "Service": services,
    "PodDisruptionBudget": disruption_budgets,
    "Deployment": deployments,
    "ServiceAccount": service_accounts,
    "RoleBinding": role_bindings,
    "InferencePool": inference_pools,
}
