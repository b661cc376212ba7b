"""A pod's volumes as folders of this machine, and which folder stands for which mount path."""

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from cluster.node.api import Api, ApiError
from cluster.node.environment import Facts, field

Body = Mapping[str, Any]
NOT_FOUND = 404
TOKEN_REFRESH = 0.8  # share of a token's life after which a kubelet asks for a new one
DATA_REFRESH = (
    5.0  # s between two looks at ConfigMaps and Secrets; a kubelet takes a minute, which a test would wait for
)


class NotYet(Exception):
    """A volume cannot be set up now; the message goes to a FailedMount event, and it is tried again."""


class Missing(NotYet):
    """There is no such object."""


class Volumes:
    """Folders below `directory`, one a volume."""

    def __init__(self, api: Api, facts: Facts, directory: Path) -> None:
        self._api = api
        self._facts = facts
        self._directory = directory
        self._namespace: str = facts.pod["metadata"]["namespace"]
        self._places: dict[str, Path] = {}
        self._tokens: list[tuple[Path, Body]] = []  # file, serviceAccountToken source

    async def prepare(self) -> None:
        """Raises NotYet."""
        for volume in self._facts.pod["spec"].get("volumes", []):
            self._places[volume["name"]] = await self._prepare(volume)

    def mounts(self, container: Body) -> dict[str, str]:
        """Mount path -> folder (or file, with a subPath)."""
        return {
            mount["mountPath"]: str(self._places[mount["name"]] / mount.get("subPath", ""))
            for mount in container.get("volumeMounts", [])
        }

    async def refresh(self) -> None:
        """Brings what changes on the API server, for as long as the pod lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refresh_tokens())
            group.create_task(self._refresh_data())

    async def _refresh_data(self) -> None:
        """What was changed, or has come; what was there before stays while it cannot be read."""
        volumes = [
            each for each in self._facts.pod["spec"].get("volumes", []) if "configMap" in each or "secret" in each
        ]
        while volumes:
            await asyncio.sleep(DATA_REFRESH)
            for volume in volumes:
                with contextlib.suppress(NotYet, aiohttp.ClientError, TimeoutError):
                    await self._project(volume, self._places[volume["name"]])

    async def _refresh_tokens(self) -> None:
        """Rewrites each token before it expires."""
        if not self._tokens:
            return
        shortest = min(source.get("expirationSeconds", 3600) for _, source in self._tokens)
        while True:
            await asyncio.sleep(shortest * TOKEN_REFRESH)
            for file, source in self._tokens:
                file.write_text(await self._token(source))

    async def _prepare(self, volume: Body) -> Path:
        place = self._directory / str(volume["name"])
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "persistentVolumeClaim" in volume:
            return await self._claimed(volume["persistentVolumeClaim"]["claimName"])
        place.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            return place
        if "projected" in volume:
            for source in volume["projected"]["sources"]:
                await self._project(source, place)
            return place
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in volume:
                await self._project({kind: volume[kind]}, place)
                return place
        raise NotYet(f"volume {volume['name']}: the local cluster knows no {', '.join(set(volume) - {'name'})}")

    async def _claimed(self, claim: str) -> Path:
        bound = await self._get(f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{claim}")
        name = bound["spec"].get("volumeName")
        if not name:
            raise NotYet(f"PersistentVolumeClaim {claim} is not bound")
        volume = await self._get(f"/api/v1/persistentvolumes/{name}")
        if "hostPath" not in volume["spec"]:
            raise NotYet(f"PersistentVolume {name}: the local cluster knows hostPath only")
        return Path(volume["spec"]["hostPath"]["path"])

    async def _project(self, source: Body, place: Path) -> None:
        if "serviceAccountToken" in source:
            token = source["serviceAccountToken"]
            file = place / token["path"]
            file.touch(mode=0o600)
            file.write_text(await self._token(token))
            self._tokens.append((file, token))
        elif "downwardAPI" in source:
            for item in source["downwardAPI"].get("items", []):
                (place / item["path"]).write_text(field(item["fieldRef"]["fieldPath"], self._facts))
        for kind in ("configMap", "secret"):
            if kind in source:
                await self._copy(kind, source[kind], place)

    async def _copy(self, kind: str, source: Body, place: Path) -> None:
        try:
            data = await self.data(kind, source.get("secretName") or source["name"])
        except Missing:
            if not source.get("optional"):
                raise
            return
        paths = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data}
        for key, path in paths.items():
            if key not in data:
                raise NotYet(f"{source.get('name') or source.get('secretName')} has no key {key}")
            _write(place / path, data[key])

    async def data(self, kind: str, name: str) -> dict[str, str]:
        """The data of a ConfigMap or Secret, decoded. Raises NotYet."""
        plural = {"configMap": "configmaps", "secret": "secrets"}[kind]
        found = await self._get(f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        data: dict[str, str] = found.get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()} if kind == "secret" else data

    async def _token(self, source: Body) -> str:
        pod = self._facts.pod
        account = pod["spec"].get("serviceAccountName", "default")
        reference = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        spec: dict[str, Any] = {
            "expirationSeconds": source.get("expirationSeconds", 3600),
            "boundObjectRef": reference,
            "audiences": [source["audience"]] if source.get("audience") else [],
        }
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        try:
            answer = await self._api.create(path, {"spec": spec})
        except ApiError as error:
            raise NotYet(f"no token for ServiceAccount {account}: {error}") from error
        return str(answer["status"]["token"])

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            return await self._api.get(path)
        except ApiError as error:
            raise (Missing if error.status == NOT_FOUND else NotYet)(f"{path}: {error}") from error


def _write(file: Path, text: str) -> None:
    """At once for who reads it meanwhile, as a kubelet swaps a link."""
    if file.exists() and file.read_text() == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f".{file.name}.new")
    written.write_text(text)
    written.replace(file)
