"""One answer of a conversation, piece by piece, from either kind of server."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import aiohttp
import grpc

from headrace_server.client import failures
from headrace_server.client.connection import Connection, base_url, first_model
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc


class Failed(Exception):
    """Status and message in one line."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Settings:
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    timeout: float  # seconds that an answer may take


class Talk(Protocol):
    def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        """Closing it hangs up. Raises Failed."""

    async def close(self) -> None: ...


async def open_talk(connection: Connection, target: str, url: str, model: str | None, settings: Settings) -> Talk:
    """`target`: gRPC HOST:PORT; "" means `url`, of an OpenAI API."""
    if target:
        return GrpcTalk(connection, target, settings)
    return HttpTalk(connection, url, model, settings)


class GrpcTalk:
    def __init__(self, connection: Connection, target: str, settings: Settings) -> None:
        self._channel = connection.channel(target)
        self._metadata = connection.metadata
        self._settings = settings

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        settings = self._settings
        request = pb.GenerateRequest(
            chat=pb.Chat(messages=[pb.ChatMessage(role=each.role, content=each.content) for each in messages]),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        stub = inference_pb2_grpc.InferenceStub(self._channel)
        try:
            request.max_new_tokens = min(settings.max_new_tokens, await self._room(stub, request.chat))
            call = stub.Generate(request, timeout=settings.timeout, metadata=self._metadata)
            try:
                async for reply in call:
                    yield reply.text
            finally:
                call.cancel()
        except grpc.aio.AioRpcError as error:
            raise Failed(failures.words(error)) from error

    async def close(self) -> None:
        await self._channel.close()

    async def _room(self, stub: inference_pb2_grpc.InferenceStub, chat: pb.Chat) -> int:
        """New tokens that fit behind the conversation; at least one, so that the server says what is too long."""
        found = await stub.Tokenize(pb.TokenizeRequest(chat=chat), timeout=30, metadata=self._metadata)
        return max(1, int(found.max_context) - len(found.tokens.ids))


class HttpTalk:
    def __init__(self, connection: Connection, url: str, model: str | None, settings: Settings) -> None:
        self._base = base_url(url)
        self._session = connection.session(timeout=settings.timeout)
        self._model = model
        self._settings = settings

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        settings = self._settings
        try:
            if self._model is None:
                self._model = await first_model(self._session, self._base)
            body: dict[str, Any] = {
                "model": self._model,
                "messages": [asdict(each) for each in messages],
                "max_tokens": settings.max_new_tokens,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "stream": True,
            } | ({} if settings.seed is None else {"seed": settings.seed})
            async with self._session.post(f"{self._base}/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    raise Failed(f"HTTP {response.status}: {_message(await response.text())}")
                async for line in response.content:
                    data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                    if data and data != b"[DONE]":
                        yield _text(json.loads(data))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._session.close()


def _text(event: dict[str, Any]) -> str:
    if "error" in event:
        raise Failed(str(event["error"].get("message", event["error"])))
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return text[:200]
