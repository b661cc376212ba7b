"""The page over HTTP: its few files, and JSON of the latest look. Nothing here can change anything, and no other site
can read it: a strict Content-Security-Policy, no CORS, and only our own names in Host (against DNS rebinding)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from headrace_operator.tools.ui import page
from headrace_operator.tools.ui.looks import Looks

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
KEEP_ALIVE = 15.0  # seconds after which a silent stream says something, so that a dead one is noticed


def application(looks: Looks, host: str) -> web.Application:
    """`host`: the address listened at; unless it is a loopback address, every Host is answered."""
    app = web.Application(middlewares=[_guard(host)])
    app.add_routes([
        web.get("/", _file("index.html")),
        *(web.get(f"/static/{name}", _file(name)) for name in _names()),
        web.get("/api/overview", _overview(looks)),
        web.get("/api/deployments/{namespace}/{name}", _detail(looks)),
        web.get("/api/looks", _looks(looks)),
    ])  # fmt: skip
    return app


def _guard(host: str) -> Any:
    is_local = _is_loopback(host)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_local and not _is_loopback(request.url.host or ""):
            raise web.HTTPMisdirectedRequest(text="ask for this page as localhost or 127.0.0.1\n", headers=HEADERS)
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    return guard


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _names() -> list[str]:
    return sorted(file.name for file in files(__package__).joinpath("static").iterdir())


def _file(name: str) -> Handler:
    text = files(__package__).joinpath("static", name).read_text()

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=TYPES[name.rpartition(".")[2]])

    return answer


def _overview(looks: Looks) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return _json(page.overview(looks.latest))

    return answer


def _detail(looks: Looks) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        found = page.detail(looks.latest, request.match_info["namespace"], request.match_info["name"])
        if found is None:
            return _json({**page.overview(looks.latest), "deployment": None})
        return _json(found)

    return answer


def _looks(looks: Looks) -> Handler:
    """Server-sent events: the number of each new look. What it saw, the page asks for."""

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await stream.prepare(request)
        with suppress(ConnectionResetError):  # the page was closed
            await _tell(looks, stream)
        return stream

    return answer


async def _tell(looks: Looks, stream: web.StreamResponse) -> None:
    """Until cancelled. Raises ConnectionResetError when nobody listens any more."""
    seen = 0
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE):
                seen = (await looks.after(seen)).number
        except TimeoutError:
            await stream.write(b": still here\n\n")
        else:
            await stream.write(f"data: {seen}\n\n".encode())


def _json(value: object) -> web.Response:
    return web.json_response(value, dumps=lambda found: json.dumps(found, separators=(",", ":")))
