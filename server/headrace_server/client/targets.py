"""How one request of a load test is sent: over gRPC, or as OpenAI HTTP."""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import grpc

from headrace_server.client import failures
from headrace_server.client.connection import OWN_CONNECTION, PLAIN, Connection, base_url, first_model
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc


@dataclass(frozen=True, slots=True)
class Job:
    prompt: str
    max_new_tokens: int
    temperature: float
    ignore_eos: bool


@dataclass(slots=True)
class Reception:
    """Filled while an answer comes in, so that a failure half way keeps what was seen."""

    clock: Callable[[], float]
    token_times: list[float] = field(default_factory=list)  # when a message with tokens came
    queue_wait: float | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def token(self) -> None:
        self.token_times.append(self.clock())


class RequestFailed(Exception):
    """Says status and message in one line."""

    def __init__(self, text: str, again: float | None = None) -> None:
        """`again`: seconds after which to come back, as the server said; None: it did not."""
        super().__init__(text)
        self.again = again


class Target(Protocol):
    async def send(self, job: Job, reception: Reception) -> None:
        """Raises RequestFailed."""

    async def close(self) -> None: ...


class GrpcTarget:
    """Generate, over connections that are kept."""

    def __init__(
        self, address: str, channels: int, fresh_connections: bool, timeout: float, connection: Connection = PLAIN
    ) -> None:
        self._address = address
        self._connection = connection
        self._channels = () if fresh_connections else tuple(self._connect() for _ in range(channels))
        self._next = itertools.cycle(self._channels)
        self._timeout = timeout

    async def send(self, job: Job, reception: Reception) -> None:
        try:
            async with self._channel() as channel:
                await self._ask(inference_pb2_grpc.InferenceStub(channel), job, reception)
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(failures.words(error), _pushback(error)) from error

    async def _ask(self, stub: inference_pb2_grpc.InferenceStub, job: Job, reception: Reception) -> None:
        request = pb.GenerateRequest(
            text=job.prompt,
            max_new_tokens=job.max_new_tokens,
            temperature=job.temperature,
            ignore_eos=job.ignore_eos,
        )
        async for reply in stub.Generate(request, timeout=self._timeout, metadata=self._connection.metadata):
            _receive(reply, reception)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        if self._channels:
            yield next(self._next)
            return
        async with self._connect() as channel:
            yield channel

    def _connect(self) -> grpc.aio.Channel:
        return self._connection.channel(self._address, OWN_CONNECTION)


class EmbedTarget(GrpcTarget):
    """Embed, likewise: the vector of the prompt, cut to the model's context."""

    async def _ask(self, stub: inference_pb2_grpc.InferenceStub, job: Job, reception: Reception) -> None:
        request = pb.EmbedRequest(inputs=[pb.EmbedInput(text=job.prompt)], truncate=True)
        reply = await stub.Embed(request, timeout=self._timeout, metadata=self._connection.metadata)
        reception.queue_wait = reply.queue_wait_seconds
        reception.prompt_tokens = sum(reply.tokens)


def _pushback(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds."""
    said = dict(error.trailing_metadata() or ())
    milliseconds = said.get("grpc-retry-pushback-ms")
    return None if milliseconds is None else float(milliseconds) / 1000


def _receive(reply: pb.GenerateReply, reception: Reception) -> None:
    if reply.token_ids:
        reception.token()
    if reply.HasField("usage"):
        reception.queue_wait = reply.usage.queue_wait_seconds
        reception.prompt_tokens = reply.usage.prompt_tokens
        reception.generated_tokens = reply.usage.generated_tokens


class HttpTarget:
    """OpenAI's /v1/completions as a stream. The model's name is what the server lists first."""

    def __init__(self, url: str, fresh_connections: bool, timeout: float, connection: Connection = PLAIN) -> None:
        self._url = base_url(url)
        self._session = connection.session(timeout=timeout, fresh_connections=fresh_connections)
        self._model: str | None = None

    async def send(self, job: Job, reception: Reception) -> None:
        try:
            body = {
                "model": await self._model_name(),
                "prompt": job.prompt,
                "max_tokens": job.max_new_tokens,
                "temperature": job.temperature,
                "stream": True,
                "stream_options": {"include_usage": True},
            } | ({"ignore_eos": True} if job.ignore_eos else {})  # not OpenAI's: servers without it may refuse it
            async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
                await _check(response)
                await _read_events(response, reception)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RequestFailed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._session.close()

    async def _model_name(self) -> str:
        if self._model is None:
            self._model = await first_model(self._session, self._url)
        return self._model


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise RequestFailed(f"HTTP {response.status}: {(await response.text())[:200]}")


async def _read_events(response: aiohttp.ClientResponse, reception: Reception) -> None:
    async for line in response.content:
        if not line.startswith(b"data:"):  # empty, a comment, or a field that OpenAI does not use
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if data:
            _receive_event(json.loads(data), reception)
    raise RequestFailed("the stream ended without [DONE]")


def _receive_event(event: dict[str, Any], reception: Reception) -> None:
    if "error" in event:
        raise RequestFailed(event["error"]["message"])
    if event["choices"] and event["choices"][0]["text"]:
        reception.token()
    if usage := event.get("usage"):
        reception.prompt_tokens = usage["prompt_tokens"]
        reception.generated_tokens = usage["completion_tokens"]
