"""Services: listens on each cluster address and forwards TCP to the selector's ready pods, one after the other."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Mapping
from typing import Any

from cluster.node.api import Api, Mirror

logger = logging.getLogger(__name__)
Body = Mapping[str, Any]
CHUNK = 64 * 1024  # bytes
Backend = tuple[str, int]


def backends(service: Body, port: Body, pods: list[Body]) -> list[Backend]:
    """Addresses of a Service's ready pods for one of its ports, in a stable order."""
    selector = service["spec"].get("selector") or {}
    namespace = service["metadata"]["namespace"]
    found = []
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        matches = pod["metadata"]["namespace"] == namespace and selector.items() <= labels.items()
        if selector and matches and _is_ready(pod) and (number := _port(port, pod)):
            found.append((pod["status"]["podIP"], number))
    return sorted(found)


def _is_ready(pod: Body) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def _port(port: Body, pod: Body) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    ports = [p for container in pod["spec"]["containers"] for p in container.get("ports", [])]
    return next((p["containerPort"] for p in ports if p.get("name") == target), None)


class Proxy:
    """Routes every Service of the cluster. One agent of a cluster runs it."""

    def __init__(self, api: Api) -> None:
        self._services = Mirror(api, "/api/v1/services", self._service_changed)
        self._pods = Mirror(api, "/api/v1/pods", lambda _body, _gone: None)
        self._changed = asyncio.Event()
        self._listeners: dict[tuple[str, int], asyncio.Server] = {}
        self._turn = itertools.count()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._pods.run())
            group.create_task(self._listen())

    def _service_changed(self, _body: Body, _gone: bool) -> None:
        self._changed.set()

    async def _listen(self) -> None:
        """Opens and closes listeners as Services come and go."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = {
                (service["spec"]["clusterIP"], port["port"]): (service["metadata"]["uid"], port["port"])
                for service in self._services.objects.values()
                if service["spec"].get("clusterIP") not in {None, "", "None"} and service["spec"].get("selector")
                for port in service["spec"]["ports"]
            }
            for place in [place for place in self._listeners if place not in wanted]:
                self._listeners.pop(place).close()
            for place, (uid, port) in wanted.items():
                if place not in self._listeners:
                    await self._open(place, uid, port)

    async def _open(self, place: tuple[str, int], uid: str, port: int) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._forward(uid, port, reader, writer)

        try:
            self._listeners[place] = await asyncio.start_server(accept, *place, limit=CHUNK, backlog=1024)
        except OSError as error:
            logger.warning("cannot listen on %s:%d: %s", *place, error)
            asyncio.get_running_loop().call_later(1.0, self._changed.set)

    async def _forward(self, uid: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the next backend that accepts; without one the connection is closed at once."""
        service = self._services.objects.get(uid)
        spec = next((p for p in service["spec"]["ports"] if p["port"] == port), None) if service else None
        try:
            candidates = backends(service, spec, list(self._pods.objects.values())) if service and spec else []
            first = next(self._turn)
            for offset in range(len(candidates)):
                host, number = candidates[(first + offset) % len(candidates)]
                with contextlib.suppress(OSError):
                    there = await asyncio.open_connection(host, number, limit=CHUNK)
                    await _join((reader, writer), there)
                    return
        finally:
            writer.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(here: Stream, there: Stream) -> None:
    try:
        await asyncio.gather(_pump(here[0], there[1]), _pump(there[0], here[1]))
    finally:
        there[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, with back-pressure; its end closes only that direction. A reset ends both."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (ConnectionError, RuntimeError):
        writer.transport.abort()
