"""The HTTP door: OpenAI's completions, chats and embeddings, and what Kubernetes asks."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from headrace_server.errors import InvalidRequest, ServerError, UnknownModel
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.choices import Indexed, opened
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import Body
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.shapes import Head, Shape, error_body
from headrace_server.rpc.status import http_headers, status_of
from headrace_server.rpc.whole import in_the_words_of, whole

LARGEST_BODY = 4 * 2**20  # bytes
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """One method an endpoint; `application` gives them their paths."""

    model: str
    readiness: Readiness
    metrics: ServerMetrics
    arrivals: Arrivals
    wall_clock: Callable[[], float]  # seconds since 1970, for `created`
    started_at: int
    callers: Callers

    async def completions(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._answer(request, CompletionBody.parse(await request.read()))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._answer(request, ChatBody.parse(await request.read()))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            body = EmbeddingBody.parse(await request.read())
            self._check_model(body.model)
            embedder = self.readiness.embedder()
            return json_response(body.reply(await embedder.embed(self.callers.complete(body.ask(), request.headers))))

    async def models(self, _: web.Request) -> web.StreamResponse:
        return json_response({"object": "list", "data": [self._card()]})

    async def one_model(self, request: web.Request) -> web.StreamResponse:
        self._check_model(request.match_info["model"])
        return json_response(self._card())

    async def health(self, _: web.Request) -> web.StreamResponse:
        return json_response({"phase": self.readiness.phase})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        phase = self.readiness.phase
        return json_response({"phase": phase, "model": self.model}, status=200 if phase is Phase.READY else 503)

    async def _answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        self._check_model(body.model)
        answers = self.readiness.answers()
        with in_the_words_of(body):
            asks = [self.callers.complete(ask, request.headers) for ask in body.asks()]
            shape = body.shape(self._head(), answers.tool_form)
            if not body.stream:
                return json_response(await whole(answers, asks, body.choices, shape))
            async with opened(answers, asks, body.choices) as pieces:
                return await _stream(request, pieces, shape, body.wants_usage())

    def _check_model(self, name: str) -> None:
        if name != self.model:
            raise UnknownModel("model", f"{name!r} is not served here; this server serves {self.model!r}")

    def _head(self) -> Head:
        return Head(self.model, int(self.wall_clock()))

    def _card(self) -> dict[str, str | int]:
        return {"id": self.model, "object": "model", "created": self.started_at, "owned_by": "headrace"}


async def _stream(
    request: web.Request, pieces: AsyncIterator[Indexed], shape: Shape, wants_usage: bool
) -> web.StreamResponse:
    first = await anext(pieces)  # a failure before it still gets its own status line
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    try:
        async for event in _events(first, pieces, shape, wants_usage):
            await response.write(event)
    except ServerError as error:  # the status line is out; the client hears of it as an event, and no [DONE] follows
        await response.write(_event(error_body(str(error), status_of(error).kind, None)))
    await response.write_eof()
    return response


async def _events(
    first: Indexed, others: AsyncIterator[Indexed], shape: Shape, wants_usage: bool
) -> AsyncIterator[bytes]:
    for opening in shape.openings():
        yield _event(opening)
    if chunk := shape.chunk(*first):
        yield _event(chunk)
    async for index, piece in others:
        if chunk := shape.chunk(index, piece):
            yield _event(chunk)
    if wants_usage:
        yield _event(shape.last())
    yield b"data: [DONE]\n\n"


def _event(document: object) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`document` may hold numpy's arrays."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


def application(
    endpoints: Endpoints, more: Sequence[web.RouteDef] = (), gate: Sequence[Middleware] = ()
) -> web.Application:
    """`gate` comes before every route, and its refusals are told as all others are."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_errors_as_openai(endpoints.metrics), *gate])
    app.add_routes(
        [
            web.post("/v1/completions", endpoints.completions),
            web.post("/v1/chat/completions", endpoints.chat),
            web.post("/v1/embeddings", endpoints.embeddings),
            web.get("/v1/models", endpoints.models),
            web.get("/v1/models/{model:.+}", endpoints.one_model),
            web.get("/health", endpoints.health),
            web.get("/ready", endpoints.ready),
            *more,
        ]
    )

    async def close_while_draining(_: web.Request, response: web.StreamResponse) -> None:
        # A client that keeps its connection would go on sending to a replica that is about to leave.
        if endpoints.readiness.phase is Phase.DRAINING:
            response.headers["Connection"] = "close"
            response.force_close()

    app.on_response_prepare.append(close_while_draining)
    return app


def admin_application(endpoints: Endpoints, admin: Sequence[web.RouteDef]) -> web.Application:
    """For a port of its own."""
    app = web.Application(middlewares=[_errors_as_openai(endpoints.metrics)])
    app.add_routes([web.get("/health", endpoints.health), web.get("/ready", endpoints.ready), *admin])
    return app


def _errors_as_openai(metrics: ServerMetrics) -> Middleware:
    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ServerError as error:
            return _refusal(error, metrics)
        except web.HTTPException as error:  # unknown path, wrong method, body too large
            message = f"{request.method} {request.path}: {error.text or error.reason}"
            return json_response(error_body(message, "invalid_request_error", None), status=error.status)

    return answer_errors


def _refusal(error: ServerError, metrics: ServerMetrics) -> web.Response:
    status = status_of(error)
    if status.refusal is not None:
        metrics.requests_refused.labels(status.refusal).inc()
    field = error.field if isinstance(error, InvalidRequest) else None
    body = error_body(str(error), status.kind, field)
    return json_response(body, status=status.http, headers=http_headers(error))


async def start_http_server(
    app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, int]:
    """Returns the runner, whose cleanup() stops it, and the port. Raises OSError when the port is taken."""
    # handler_cancellation: a client that hangs up cancels its handler, and that frees its KV pages.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=5.0, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])
