"""A proxy in front of the real API server that does what networks and overloaded servers do.

It ends TLS with the cluster's own certificate, so that whoever has its kubeconfig notices nothing. It runs in a thread
of its own: a test that waits for kubectl does not hold it up.
"""

import asyncio
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from cluster import LocalCluster, users
from cluster.users import User

KEPT = {"Authorization", "Content-Type", "Accept", "User-Agent"}  # of a request's headers
PASSED = {"Content-Type", "Retry-After"}  # of an answer's
REFUSALS = {"throttled": (429, {"Retry-After": "1"}), "failing": (500, {})}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request, in the words of an RBAC rule."""

    verb: str  # get, list, watch, create, update, patch, delete
    group: str  # "" is the core group
    resource: str  # with its subresource: "pods", "inferencedeployments/status"
    namespace: str
    name: str

    @property
    def is_write(self) -> bool:
        return self.verb in VERBS.values()

    @property
    def is_election(self) -> bool:
        return self.resource == "leases"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What one verb of an RBAC rule gives."""

    verb: str
    group: str
    resource: str


def needed(call: Call, status: int) -> list[Right]:
    """Server-side apply needs `create` too where it creates."""
    verbs = ["create", "patch"] if (call.verb, status) == ("patch", 201) else [call.verb]
    return [Right(verb, call.group, call.resource) for verb in verbs]


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of all requests, 0..1; watches count when they begin."""

    throttled: float = 0.0  # 429 with Retry-After: 1
    failing: float = 0.0  # 500
    lost: float = 0.0  # taken, not done, never answered
    unanswered: float = 0.0  # done, never answered


@dataclass(slots=True)
class Switches:
    """What one may set while the proxy runs."""

    faults: Faults = Faults()
    half_open: bool = False  # everything is taken and nothing is done or answered, running watches included
    silent_watches: bool = False  # watches, running and new, say nothing
    unauthorized: bool = False  # nobody is known any more: 401, and running watches end with their next word
    before: Callable[[Call], bool] = lambda call: True  # a write is about to be done; False: it is not
    after: Callable[[Call, int], None] = lambda call, status: None  # a write is done and not answered yet


class FaultProxy:
    """Use as `with`. `kubeconfig` writes a file that leads through it; `switches` takes effect at once."""

    def __init__(self, cluster: LocalCluster, *, seed: int = 0) -> None:
        self._upstream = cluster.api.server
        self._pki = cluster.directory / "control-plane"
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self.switches = Switches()
        self.calls: list[
            tuple[Call, int]
        ] = []  # with the HTTP status that the API server gave; 0 where it was not asked

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(120)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    def kubeconfig(self, path: Path, user: User) -> Path:
        users.write_kubeconfig(path, self.server, self._pki / "ca.crt", user)
        return path

    def used(self) -> Counter[Right]:
        """How often each right was needed and granted. What is not there (404) is no question of rights."""
        return Counter(
            right for call, status in list(self.calls) if status not in {0, 401, 403} for right in needed(call, status)
        )

    def writes(self, since: int = 0) -> list[tuple[Call, int]]:
        """All that were asked for, but for the election's own; `since`: an earlier length of `calls`."""
        return [(call, status) for call, status in self.calls[since:] if call.is_write and not call.is_election]

    async def _start(self) -> None:
        self._closing = asyncio.Event()
        trust = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        # No limit: requests that hang must not hold up others.
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(self._pki / "apiserver.crt", self._pki / "apiserver.key")
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await self._runner.setup()
        host = urlsplit(self._upstream).hostname
        await web.TCPSite(self._runner, host, 0, ssl_context=ours).start()
        self.server = f"https://{host}:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        self._closing.set()
        await self._session.close()  # ends the watches, and with them their handlers
        await self._runner.cleanup()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if _ends(task)), return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call, body, fault = understood(request), await request.read(), self._fault()
        if self.switches.half_open or fault == "lost":
            return await self._never(request, call)
        if self.switches.unauthorized:
            self.calls.append((call, 0))
            return refused(401, {})
        if fault in REFUSALS:
            self.calls.append((call, 0))
            return refused(*REFUSALS[fault])
        if call.is_write and not self.switches.before(call):
            return _hung_up(request)
        try:
            answer = await self._ask(request, call, body)
        except aiohttp.ClientConnectionError:  # the API server is down: so are we
            self.calls.append((call, 0))
            return _hung_up(request)
        return await self._never(request) if fault == "unanswered" else answer

    async def _ask(self, request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
        headers = _some(request.headers.items(), KEPT)
        url = self._upstream + request.raw_path
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            self.calls.append((call, answer.status))
            if call.verb == "watch" and answer.status == 200:
                return await self._watch(request, answer)
            data = await answer.read()
        if call.is_write:
            self.switches.after(call, answer.status)
        return web.Response(status=answer.status, body=data, headers=_some(answer.headers.items(), PASSED))

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers=_some(answer.headers.items(), PASSED))
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            if self.switches.silent_watches or self.switches.half_open:
                return await self._never(request)  # what was lost does not come later either
            if self.switches.unauthorized:
                return response
            await response.write(chunk)
        return response

    def _fault(self) -> str | None:
        faults, dice = self.switches.faults, self._random.random()
        for name in ("throttled", "failing", "lost", "unanswered"):
            dice -= getattr(faults, name)
            if dice < 0:
                return name
        return None

    async def _never(self, request: web.Request, call: Call | None = None) -> web.StreamResponse:
        """`call`: one that the API server does not hear of."""
        if call:
            self.calls.append((call, 0))
        await self._closing.wait()
        return _hung_up(request)


def refused(status: int, headers: dict[str, str]) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a fault for a test", "code": status}
    return web.json_response(body, status=status, headers=headers)


def understood(request: web.Request) -> Call:
    """/api/v1/namespaces/NS/pods/NAME, /apis/GROUP/VERSION/RESOURCE, and the like."""
    parts = request.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "", "")[:3]
    verb = VERBS.get(request.method) or ("get" if name else "list")
    if request.query.get("watch") in {"true", "1"}:
        verb = "watch"
    return Call(verb, group, f"{resource}/{subresource}" if subresource else resource, namespace, name)


def _hung_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _ends(task: "asyncio.Task[object]") -> bool:
    return task is not asyncio.current_task() and task.cancel()


def _some(headers: Iterable[tuple[str, str]], names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers if name in names}
