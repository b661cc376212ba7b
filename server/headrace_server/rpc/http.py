"""The HTTP door: OpenAI's completions, chats and embeddings, others' ranking, and what Kubernetes asks."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from headrace_server.errors import ServerError, UnknownModel
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.choices import Indexed, opened
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import Body
from headrace_server.rpc.openapi import document
from headrace_server.rpc.ranking import judged
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.replies import FAILED, errors_as_openai, json_response
from headrace_server.rpc.request_ids import name_request, request_id
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from headrace_server.rpc.shapes import Head, Shape, error_body, refusal_body
from headrace_server.rpc.tokenise import DetokenizeBody, TokenizeBody
from headrace_server.rpc.whole import in_the_words_of, whole

DISTRIBUTION = "headrace-server"
LARGEST_BODY = 4 * 2**20  # bytes
RERANK = ("/v1/rerank", "/rerank", "/v2/rerank")  # Jina's and vLLM's, infinity's, Cohere's
SCORE = ("/v1/score", "/score")
ANY_MODEL = (
    "x-headrace-any-model"  # a router chose among several models: what the client calls the model does not count
)
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
    adapters: tuple[str, ...] = ()  # names that answer as the model with an adapter

    async def completions(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._answer(request, CompletionBody.parse(await request.read()))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._answer(request, ChatBody.parse(await request.read()))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            body = EmbeddingBody.parse(await request.read())
            self._check_model(self._meant(body.model, request))
            embedder = self.readiness.embedder()
            return json_response(body.reply(await embedder.embed(self.callers.complete(body.ask(), request.headers))))

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._judged(request, RerankBody.parse(await request.read()))

    async def score(self, request: web.Request) -> web.StreamResponse:
        with self.arrivals.one():
            return await self._judged(request, ScoreBody.parse(await request.read()))

    async def _judged(self, request: web.Request, body: RerankBody | ScoreBody) -> web.StreamResponse:
        self._check_model(self._meant(body.model, request))
        ranker = self.readiness.ranker()
        found = await judged(ranker, body.match(), lambda ask: self.callers.complete(ask, request.headers))
        return json_response(body.reply(found, int(self.wall_clock())))

    async def models(self, _: web.Request) -> web.StreamResponse:
        return json_response({"object": "list", "data": [self._card(name) for name in (self.model, *self.adapters)]})

    async def one_model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["model"]
        self._adapter(name)
        return json_response(self._card(name))

    async def health(self, _: web.Request) -> web.StreamResponse:
        return json_response({"phase": self.readiness.phase})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        phase = self.readiness.phase
        return json_response({"phase": phase, "model": self.model}, status=200 if phase is Phase.READY else 503)

    async def ping(self, _: web.Request) -> web.StreamResponse:
        """What SageMaker asks before it sends requests."""
        return json_response({}, status=200 if self.readiness.phase is Phase.READY else 503)

    async def version(self, _: web.Request) -> web.StreamResponse:
        return json_response({"version": version(DISTRIBUTION)})

    async def openapi(self, _: web.Request) -> web.StreamResponse:
        return json_response(document(version(DISTRIBUTION)))

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        return await self._tokens(request, TokenizeBody.parse(await request.read()))

    async def detokenize(self, request: web.Request) -> web.StreamResponse:
        return await self._tokens(request, DetokenizeBody.parse(await request.read()))

    async def tokenizer_info(self, _: web.Request) -> web.StreamResponse:
        """vLLM's, by which an evaluation harness does without a copy of the tokenizer."""
        return json_response(self.readiness.tokens().tokenizer_info)

    async def _tokens(self, request: web.Request, body: TokenizeBody | DetokenizeBody) -> web.StreamResponse:
        if body.model is not None:
            self._adapter(self._meant(body.model, request))
        return json_response(await body.answer(self.readiness.tokens()))

    async def _answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        name = self._meant(body.model, request)
        adapter = self._adapter(name)
        answers = self.readiness.answers()
        with in_the_words_of(body):
            asks = [replace(self.callers.complete(ask, request.headers), adapter=adapter) for ask in body.asks()]
            shape = body.shape(Head(name, int(self.wall_clock())), answers.tool_form)
            if not body.stream:
                return json_response(await whole(answers, asks, body.choices, shape))
            async with opened(answers, asks, body.choices) as pieces:
                return await _stream(request, pieces, shape, body.wants_usage())

    def _meant(self, name: str, request: web.Request) -> str:
        """Which model a client's word means: what it says, but where a router has chosen."""
        return self.model if ANY_MODEL in request.headers and name not in self.adapters else name

    def _check_model(self, name: str) -> None:
        if name != self.model:
            raise UnknownModel("model", f"{name!r} is not served here; this server serves {self.model!r}")

    def _adapter(self, name: str) -> str:
        """That of a model's name; "" of the model itself. Raises UnknownModel."""
        if name in self.adapters:
            return name
        if self.adapters and name != self.model:
            known = ", ".join(map(repr, (self.model, *self.adapters)))
            raise UnknownModel("model", f"{name!r} is not served here; this server serves {known}")
        self._check_model(name)
        return ""

    def _card(self, name: str) -> dict[str, str | int]:
        """`parent`: of an adapter the model, as vLLM's cards have it."""
        longest = self.readiness.max_model_len
        card: dict[str, str | int] = {
            "id": name,
            "object": "model",
            "created": self.started_at,
            "owned_by": "headrace",
        }
        parent: dict[str, str | int] = {"parent": self.model} if name in self.adapters else {}
        return card | parent | ({} if longest is None else {"max_model_len": longest})


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
        await response.write(_event(refusal_body(error)))
    except ConnectionError:  # the client has gone
        raise
    except Exception:
        log.exception("%s %s, in its stream (%s)", request.method, request.path, request_id(request))
        await response.write(_event(error_body(FAILED, "server_error", None)))
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


def application(
    endpoints: Endpoints, more: Sequence[web.RouteDef] = (), gate: Sequence[Middleware] = ()
) -> web.Application:
    """`gate` comes before every route, and its refusals are told as all others are."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[errors_as_openai(endpoints.metrics), *gate])
    app.add_routes(
        [
            web.post("/v1/completions", endpoints.completions),
            web.post("/v1/chat/completions", endpoints.chat),
            web.post("/v1/embeddings", endpoints.embeddings),
            *(web.post(path, endpoints.rerank) for path in RERANK),
            *(web.post(path, endpoints.score) for path in SCORE),
            web.get("/v1/models", endpoints.models),
            web.get("/v1/models/{model:.+}", endpoints.one_model),
            web.post("/tokenize", endpoints.tokenize),
            web.post("/detokenize", endpoints.detokenize),
            web.get("/tokenizer_info", endpoints.tokenizer_info),
            web.get("/openapi.json", endpoints.openapi),
            web.get("/version", endpoints.version),
            web.get("/ping", endpoints.ping),
            web.post("/ping", endpoints.ping),
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
    app.on_response_prepare.append(name_request)
    return app


def admin_application(endpoints: Endpoints, admin: Sequence[web.RouteDef]) -> web.Application:
    """For a port of its own."""
    app = web.Application(middlewares=[errors_as_openai(endpoints.metrics)])
    app.add_routes([web.get("/health", endpoints.health), web.get("/ready", endpoints.ready), *admin])
    return app


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
