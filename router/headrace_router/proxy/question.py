"""The question that Envoy asks before it sends a request anywhere, answered from the pickers.

Envoy's external authorisation over HTTP: 200 with a header that names hosts, or the refusal that the client gets. A
question may stay open while the request is held; Envoy takes it back when the client leaves.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil

from aiohttp import web

from headrace_router.metrics import RouterMetrics
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.rules import Rules, Traits
from headrace_router.proxy import prompt
from headrace_router.proxy.bootstrap import (
    ENDPOINT_HEADER,
    FAIRNESS_HEADER,
    HOP_HEADER,
    LENGTH_HEADER,
    MIRROR_HEADER,
    PROGRESS_HEADER,
    PROMPTED,
    STREAM_HEADER,
    mirror,
)
from headrace_router.values import Asked, Door, Pick, Reason, Refusal, Through

# Questions about the process itself: whoever asks wants to hear now that no replica is there.
NEVER_HELD = ("/health", "/ready", "/grpc.health.v1.Health/", "/grpc.reflection.", "/metrics", "/load")
RESOURCE_EXHAUSTED, UNAVAILABLE = "8", "14"  # of gRPC
Answer = Pick | Refusal


@dataclass(frozen=True, slots=True)
class Seen:
    """A request, as far as it is shown before it goes anywhere."""

    path: str
    headers: Mapping[str, str]  # any case
    beginning: bytes  # of its body
    asked: Asked
    model: str


class Questions:
    """Answers Envoy, at once or when a picker has released the request."""

    def __init__(self, fleet: Fleet, rules: Rules, metrics: RouterMetrics, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._open: dict[str, asyncio.Future[Answer]] = {}  # by stream, of requests that are held

    def server(self) -> web.Server:
        """Who asks may take the question back: a held request whose client left makes room."""
        return web.Server(self.answer, handler_cancellation=True, access_log=None)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        door = Door(request.path.split("/", 2)[1])
        stream = request.headers[STREAM_HEADER]
        seen = self._seen(door, request, body)
        through = self._through(seen)
        if through is not None:
            return web.Response(headers={HOP_HEADER: f"{through} {stream} {seen.model}"})
        answer = await self.placed(stream, seen.asked, seen.model)
        return refused(door, answer) if isinstance(answer, Refusal) else _directed(door, answer)

    async def placed(self, stream: str, asked: Asked, model: str) -> Answer:
        """Where a request goes, once it is known. Who is cancelled meanwhile is held no longer."""
        begun = self._clock()
        answer = self._fleet.ask(stream, asked, model, begun)
        if answer is None:
            answer = await self._held(stream)
            self._metrics.held_seconds.observe(self._clock() - begun)
        self._metrics.requests.labels(asked.door, answer.reason).inc()
        if isinstance(answer, Pick):
            self._metrics.revisions.labels(answer.endpoints[0].revision).inc()
            self._metrics.mirrored.inc(answer.is_mirrored)
        return answer

    def settle(self) -> None:
        """Answers what the pickers let go on now."""
        self.tell(self._fleet.released(self._clock()))

    def tell(self, answers: Iterable[tuple[str, Answer]]) -> None:
        for stream, answer in answers:
            future = self._open.get(stream)
            if future is None or future.done():  # its client left in this very moment
                self._fleet.finished(stream, True, self._clock())
            else:
                future.set_result(answer)

    def _seen(self, door: Door, request: web.BaseRequest, body: bytes) -> Seen:
        path = request.path[len(door) + 1 :]
        model, rule = self._rules.default, ""
        if self._rules.rules:
            model, rule = self._rules.chosen(traits(door, request.headers, body))
        if rule and path in PROMPTED[door]:
            self._metrics.models.labels(model, rule).inc()
        return Seen(path, request.headers, body, asked(door, path, request.headers, body), model)

    def _through(self, seen: Seen) -> Through | None:
        """Why it passes through Python; None for almost all requests, which do not."""
        if seen.asked.door is not Door.HTTP or seen.path not in PROMPTED[Door.HTTP]:
            return None
        fallback = self._rules.fallback
        if fallback is not None and fallback.origin == seen.model and prompt.is_whole(seen.beginning):
            return Through.FALLBACK
        wants_progress = seen.headers.get(PROGRESS_HEADER) == "comments" and prompt.is_streamed(seen.beginning)
        return Through.PROGRESS if wants_progress and self._fleet.would_hold(seen.model, self._clock()) else None

    async def _held(self, stream: str) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[stream] = future
        try:
            return await future
        except asyncio.CancelledError:
            self._fleet.gave_up(stream)
            raise
        finally:
            del self._open[stream]


def asked(door: Door, path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    # Who a caller is, the replica finds out; here it is enough that two callers are seldom taken for one.
    caller = headers.get(FAIRNESS_HEADER) or headers.get("Authorization") or headers.get("X-Forwarded-For") or ""
    beginning = prompt.of_grpc(body) if door is Door.GRPC else prompt.of_json(body)
    return Asked(door, prompt.affinity(caller, beginning), caller, may_wait=not path.startswith(NEVER_HELD))


def traits(door: Door, headers: Mapping[str, str], body: bytes) -> Traits:
    """What rules look at."""
    said = headers.get(LENGTH_HEADER, "")
    length = prompt.length_of_grpc(body) if door is Door.GRPC else int(said) if said.isdigit() else len(body)
    named = {name.lower(): value for name, value in headers.items()}
    return Traits(named, headers.get(FAIRNESS_HEADER, ""), length, body)


def _directed(door: Door, pick: Pick) -> web.Response:
    headers = {ENDPOINT_HEADER: ",".join(endpoint.host(door) for endpoint in pick.endpoints)}
    return web.Response(headers={**headers, MIRROR_HEADER: mirror(door)} if pick.is_mirrored else headers)


def refused(door: Door, refusal: Refusal) -> web.Response:
    """As its door says it."""
    full = refusal.reason is Reason.TOO_MANY_HELD
    status = HTTPStatus.TOO_MANY_REQUESTS if full else HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Retry-After": str(max(1, ceil(refusal.retry_after)))}
    if door is Door.GRPC:
        headers["grpc-status"] = RESOURCE_EXHAUSTED if full else UNAVAILABLE
        headers["grpc-retry-pushback-ms"] = str(round(refusal.retry_after * 1000))
        return web.Response(status=status, headers=headers, text=refusal.message)
    return web.Response(status=status, headers=headers, text=error_body(refusal), content_type="application/json")


def error_body(refusal: Refusal) -> str:
    """In OpenAI's words."""
    full = refusal.reason is Reason.TOO_MANY_HELD
    error = {"message": refusal.message, "type": "rate_limit_error" if full else "server_error", "param": None,
             "code": "rate_limit_exceeded" if full else "service_unavailable"}  # fmt: skip
    return json.dumps({"error": error})
