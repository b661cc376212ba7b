"""The kubelet's log door, so that `kubectl logs [-f] [--previous] [--tail]` works.

It listens on the node's loopback address with a self-signed certificate and asks nobody who they are: whoever runs
processes on this machine as this user can read the files anyway.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from aiohttp import web

from cluster.pki import make_keys

POLL = 0.2  # s between two looks at a followed file
Find = Callable[[str, str, str, bool], Path | None]  # (namespace, pod, container, previous) -> file


async def serve(address: str, directory: Path, find: Find) -> tuple[web.AppRunner, int]:
    """Starts listening on a free port; returns it."""

    async def logs(request: web.Request) -> web.StreamResponse:
        place = request.match_info
        query = request.query
        file = find(place["namespace"], place["pod"], place["container"], query.get("previous") == "true")
        if file is None or not file.exists():
            return web.Response(status=404, text=f"no log of {place['pod']}/{place['container']}\n")
        return await _stream(request, file, query.get("tailLines"), follow=query.get("follow") == "true")

    app = web.Application()
    app.add_routes([web.get("/containerLogs/{namespace}/{pod}/{container}", logs)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    directory.mkdir(parents=True, exist_ok=True)
    keys = make_keys(directory, [IPv4Address(address)], datetime.now(UTC))  # noqa: TID251 - the edge
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys.server_certificate, keys.server_key)
    site = web.TCPSite(runner, address, 0, ssl_context=context)
    await site.start()
    return runner, runner.addresses[0][1]


async def _stream(request: web.Request, file: Path, tail: str | None, *, follow: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    with file.open("rb") as source:
        data = source.read()
        if tail is not None:
            data = b"".join(data.splitlines(keepends=True)[-int(tail) :]) if int(tail) else b""
        await response.write(data)
        while follow and not _is_replaced(file, source.fileno()):
            await asyncio.sleep(POLL)
            if more := source.read():
                await response.write(more)
    return response


def _is_replaced(file: Path, descriptor: int) -> bool:
    """The container started again (its log is a new file), or the pod is gone."""
    return not file.exists() or not file.samefile(f"/proc/self/fd/{descriptor}")
