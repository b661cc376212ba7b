"""The question that Envoy asks before it sends a request anywhere, answered from the picker.

Envoy's external authorisation over HTTP: 200 with a header that names hosts, or the refusal that the client gets. A
question may stay open while the request is held; Envoy takes it back when the client leaves.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from math import ceil

from aiohttp import web

from headrace_router.metrics import RouterMetrics
from headrace_router.pick.picker import Picker
from headrace_router.proxy import prompt
from headrace_router.proxy.bootstrap import ENDPOINT_HEADER, FAIRNESS_HEADER, MIRROR_HEADER, STREAM_HEADER, mirror
from headrace_router.values import Asked, Door, Pick, Reason, Refusal

# Questions about the process itself: whoever asks wants to hear now that no replica is there.
NEVER_HELD = ("/health", "/ready", "/grpc.health.v1.Health/", "/grpc.reflection.", "/metrics", "/load")
RESOURCE_EXHAUSTED, UNAVAILABLE = "8", "14"  # of gRPC
Answer = Pick | Refusal


class Questions:
    """Answers Envoy, at once or when the picker has released the request."""

    def __init__(self, picker: Picker, metrics: RouterMetrics, clock: Callable[[], float]) -> None:
        self._picker = picker
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
        begun = self._clock()
        answer = self._picker.ask(stream, asked(door, request, body), begun)
        if answer is None:
            answer = await self._held(stream)
            self._metrics.held_seconds.observe(self._clock() - begun)
        self._metrics.requests.labels(door, answer.reason).inc()
        if isinstance(answer, Refusal):
            return _refused(door, answer)
        self._metrics.revisions.labels(answer.endpoints[0].revision).inc()
        self._metrics.mirrored.inc(answer.is_mirrored)
        return _directed(door, answer)

    def settle(self) -> None:
        """Answers what the picker lets go on now."""
        self.tell(self._picker.released(self._clock()))

    def tell(self, answers: Iterable[tuple[str, Answer]]) -> None:
        for stream, answer in answers:
            future = self._open.get(stream)
            if future is None or future.done():  # its client left in this very moment
                self._picker.finished(stream, True, self._clock())
            else:
                future.set_result(answer)

    async def _held(self, stream: str) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[stream] = future
        try:
            return await future
        except asyncio.CancelledError:
            self._picker.gave_up(stream)
            raise
        finally:
            del self._open[stream]


def asked(door: Door, request: web.BaseRequest, body: bytes) -> Asked:
    path = request.path[len(door) + 1 :]
    headers = request.headers
    # Who a caller is, the replica finds out; here it is enough that two callers are seldom taken for one.
    caller = headers.get(FAIRNESS_HEADER) or headers.get("Authorization") or headers.get("X-Forwarded-For") or ""
    beginning = prompt.of_grpc(body) if door is Door.GRPC else prompt.of_json(body)
    return Asked(door, prompt.affinity(caller, beginning), caller, may_wait=not path.startswith(NEVER_HELD))


def _directed(door: Door, pick: Pick) -> web.Response:
    headers = {ENDPOINT_HEADER: ",".join(endpoint.host(door) for endpoint in pick.endpoints)}
    return web.Response(headers={**headers, MIRROR_HEADER: mirror(door)} if pick.is_mirrored else headers)


def _refused(door: Door, refusal: Refusal) -> web.Response:
    full = refusal.reason is Reason.TOO_MANY_HELD
    status = HTTPStatus.TOO_MANY_REQUESTS if full else HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Retry-After": str(max(1, ceil(refusal.retry_after)))}
    if door is Door.GRPC:
        headers["grpc-status"] = RESOURCE_EXHAUSTED if full else UNAVAILABLE
        headers["grpc-retry-pushback-ms"] = str(round(refusal.retry_after * 1000))
        return web.Response(status=status, headers=headers, text=refusal.message)
    error = {"message": refusal.message, "type": "rate_limit_error" if full else "server_error", "param": None,
             "code": "rate_limit_exceeded" if full else "service_unavailable"}  # fmt: skip
    return web.Response(
        status=status, headers=headers, text=json.dumps({"error": error}), content_type="application/json"
    )
