"""Replicas that answer what a test told them to: a real gRPC port and a real HTTP port, and no model behind them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import grpc
from aiohttp import web
from certificates import Pair
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

HOST = "127.0.0.1"


@dataclass(slots=True)
class Replica(inference_pb2_grpc.InferenceServicer):
    """Says its name in every answer. `gate` holds answers back until the test sets it."""

    name: str
    max_running: int = 4
    inside: int = 0
    most_inside: int = 0
    asked: list[str] = field(default_factory=list)  # prompts
    metadata: list[dict[str, str]] = field(default_factory=list)
    fails_with: grpc.StatusCode | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: int = 3
    dies_after: int | None = None  # tokens of a stream over HTTP, once these are `heard`
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    logprob: float = -0.1  # of each token of a whole answer
    grpc_port: int = 0
    http_port: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def flag(self) -> str:
        return f"--replica={self.address}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.grpc_port}:{self.http_port}"

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateReply]:
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        if self.fails_with is not None:
            await context.abort(self.fails_with, f"{self.name} was told to")
        with self._entered(request.text):
            await self.gate.wait()
            for _ in range(self.tokens):
                yield pb.GenerateReply(text=self.name)

    async def EmbedStream(  # noqa: N802 - likewise
        self, requests: AsyncIterator[pb.EmbedStreamRequest], _: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.EmbedStreamReply]:
        async for request in requests:
            yield pb.EmbedStreamReply(id=request.id)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.metadata.append({key.lower(): value for key, value in request.headers.items()})
        document = await request.json()
        if document.get("stream") is False:
            return self._whole(document)
        with self._entered(document["prompt"]):
            await self.gate.wait()
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for place in range(self.tokens):
                if place == self.dies_after:
                    assert request.transport is not None
                    await self.heard.wait()  # a reset overtakes what was said before
                    self.heard.clear()
                    request.transport.abort()
                    return response
                await response.write(f"data: {self.name}\n\n".encode())
            return response

    def _whole(self, document: dict[str, object]) -> web.Response:
        self.asked.append(str(document["prompt"]))
        if self.fails_with is not None:
            return web.json_response({"error": {"message": f"{self.name} was told to"}}, status=503)
        logprobs = {"token_logprobs": [self.logprob] * 2} if "logprobs" in document else None
        return web.json_response({"choices": [{"text": self.name, "logprobs": logprobs}]})

    async def load(self, _: web.Request) -> web.Response:
        return web.json_response({"server_load": self.inside, "max_running": self.max_running})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text=self.name)

    def _entered(self, prompt: str) -> "_Inside":
        self.asked.append(prompt)
        return _Inside(self)


async def said_by(response: aiohttp.ClientResponse, *replicas: Replica) -> str:
    """All that a stream says. A replica that is to die does so when its last words have come."""
    said = ""
    async for line in response.content:
        said += line.decode()
        for replica in replicas:
            if said.count("data: ") == replica.dies_after:
                replica.heard.set()
    return said


@dataclass(slots=True)
class _Inside:
    replica: Replica

    def __enter__(self) -> None:
        self.replica.inside += 1
        self.replica.most_inside = max(self.replica.most_inside, self.replica.inside)

    def __exit__(self, *_: object) -> None:
        self.replica.inside -= 1


@asynccontextmanager
async def running(replica: Replica, pair: Pair | None = None) -> AsyncIterator[Callable[[], None]]:
    """Gives what ends it at once, as a crash does; it may be called or not. `pair`: of its TLS; None: plain text."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(replica, server)
    credentials = (
        grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())]) if pair else None
    )
    place = f"{HOST}:{replica.grpc_port}"
    replica.grpc_port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    await server.start()
    app = web.Application(client_max_size=4 << 20)
    app.add_routes(
        [
            web.get("/load", replica.load),
            web.get("/health", replica.health),
            web.post("/v1/completions", replica.complete),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
    await web.TCPSite(runner, HOST, replica.http_port, ssl_context=context).start()
    replica.http_port = runner.addresses[0][1]
    crashes: list[asyncio.Task[None]] = []

    async def end() -> None:
        await server.stop(grace=None)
        await runner.cleanup()

    def crash() -> None:
        crashes.append(asyncio.get_running_loop().create_task(end()))

    try:
        yield crash
    finally:
        await (crashes[0] if crashes else end())
