"""The few calls we make to the API server, on plain dicts: explicit content type, and a timeout on every one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopf
from kubernetes.aio import client, config

from headrace_operator.settings import REQUEST_TIMEOUT, Settings

FIELD_MANAGER = "headrace"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
OBJECTS = "/apis/headrace.dev/v1alpha1"
OWN_PODS = "app.kubernetes.io/managed-by=headrace"

Body = dict[str, Any]


class KubeError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kube:
    """One connection pool to the API server. Use as `async with`."""

    def __init__(self, configuration: Any, field_manager: str = FIELD_MANAGER) -> None:
        """`field_manager`: the name under which the API server remembers who wrote a field."""
        self._client = client.ApiClient(configuration)
        self._field_manager = field_manager

    async def __aenter__(self) -> "Kube":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, path: str, **query: str) -> Body:
        return await self._request("GET", path, query=query)

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
        response = await self._client.call_api(*request, _request_timeout=REQUEST_TIMEOUT)
        data: bytes = await response.read()
        if response.status >= 400:
            raise KubeError(response.status, _message(data))
        return data


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message"))
    except ValueError:
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


def services(namespace: str, name: str) -> str:
    return _join("/api/v1", namespace, "services", name)


def horizontal_pod_autoscalers(namespace: str | None) -> str:
    return _join("/apis/autoscaling/v2", namespace, "horizontalpodautoscalers")


def scaled_objects(namespace: str | None) -> str:
    """KEDA's; the API server answers 404 where KEDA is not installed."""
    return _join("/apis/keda.sh/v1alpha1", namespace, "scaledobjects")


def controller_revisions(namespace: str | None) -> str:
    return _join("/apis/apps/v1", namespace, "controllerrevisions")


def revisions(namespace: str | None, name: str | None = None) -> str:
    return _join("/apis/apps/v1", namespace, "controllerrevisions", name)


def events(namespace: str, name: str | None = None) -> str:
    return _join("/api/v1", namespace, "events", name)


def leases(namespace: str, name: str | None = None) -> str:
    return _join("/apis/coordination.k8s.io/v1", namespace, "leases", name)


def _join(prefix: str, namespace: str | None, kind: str, *rest: str | None) -> str:
    scope = ["namespaces", namespace] if namespace else []
    return "/".join([prefix, *scope, kind, *(part for part in rest if part)])
