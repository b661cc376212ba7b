"""The agent's calls to the API server, on plain dicts, and lists that keep themselves up to date."""

import asyncio
import json
import logging
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

logger = logging.getLogger(__name__)
Body = dict[str, Any]
MERGE = "application/merge-patch+json"
TIMEOUT = aiohttp.ClientTimeout(total=30)
WATCH_SECONDS = 120  # the server ends a watch after this; a watch that stays silent longer is broken
RETRY = 1.0  # s


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Use as `async with`. Knows one kubeconfig with one cluster and a bearer token."""

    def __init__(self, kubeconfig: Path) -> None:
        content = yaml.safe_load(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        self.server: str = cluster["server"]
        context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), headers={"Authorization": f"Bearer {user['token']}"}
        )

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Body:
        return await self._call("GET", path, query=query)

    async def create(self, path: str, body: Body) -> Body:
        return await self._call("POST", path, body)

    async def merge(self, path: str, body: Body) -> Body:
        return await self._call("PATCH", path, body, content_type=MERGE)

    async def delete_now(self, path: str, uid: str) -> None:
        """Removes the object with this UID without grace; one that is gone already is fine."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", path, body)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def events(self, path: str, version: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
        """A watch from `version` on. Raises ApiError(410) when that is too old."""
        parameters = {**query, "watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=WATCH_SECONDS + 10)
        async with self._session.get(self.server + path, params=parameters, timeout=timeout) as answer:
            if answer.status != 200:
                raise ApiError(answer.status, await answer.text())
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    event: Body = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    yield event

    async def _call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Body:
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self.server + path, data=data, params=query, headers={"Content-Type": content_type}, timeout=TIMEOUT
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ApiError(answer.status, text)
            result: Body = json.loads(text)
            return result


class Mirror:
    """A list of objects that follows the API server: list, then watch, again and again."""

    def __init__(self, api: Api, path: str, changed: Callable[[Body, bool], None], **query: str) -> None:
        """`changed` hears every object that appeared or changed (False) or went (True)."""
        self._api = api
        self._path = path
        self._changed = changed
        self._query = query
        self.objects: dict[str, Body] = {}  # by UID

    async def run(self) -> None:
        while True:
            try:
                await self._follow(await self._list())
            except ApiError as error:
                logger.info("watch of %s: %s", self._path, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("watch of %s: %s: %s", self._path, type(error).__name__, error)
                await asyncio.sleep(RETRY)

    async def _list(self) -> str:
        answer = await self._api.get(self._path, **self._query)
        found = {body["metadata"]["uid"]: body for body in answer["items"]}
        for uid in [uid for uid in self.objects if uid not in found]:
            self._changed(self.objects.pop(uid), True)
        for uid, body in found.items():
            self.objects[uid] = body
            self._changed(body, False)
        return str(answer["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        """Until the server ends the watch; then a new one from where it stopped."""
        while True:
            async for event in self._api.events(self._path, version, self._query):
                body = event["object"]
                version = body["metadata"]["resourceVersion"]
                is_gone = event["type"] == "DELETED"
                uid = body["metadata"]["uid"]
                if is_gone:
                    self.objects.pop(uid, None)
                else:
                    self.objects[uid] = body
                self._changed(body, is_gone)
