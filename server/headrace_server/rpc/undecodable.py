"""Bytes that are no message of the method: refused as the caller's fault. grpc.aio alone takes them for a bug of the
server: it answers UNKNOWN and writes a traceback into the log, once for each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.calls import Context
from headrace_server.rpc.status import message_of, status_of, trailers

Details = grpc.HandlerCallDetails
Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # in quotes: at run time it takes no arguments
OURS = ("/headrace.", "/inference.")


class RefuseUndecodable(grpc.aio.ServerInterceptor):
    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable["Method | None"]], details: Details
    ) -> "Method | None":
        handler = await continuation(details)
        return handler if handler is None or not details.method.startswith(OURS) else _guarded(handler)


def _guarded(handler: Any) -> Method:
    asked, told = (
        "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
    )
    kind = f"{asked}_{told}"
    guard = _of_stream if handler.request_streaming else _of_one
    made: Method = getattr(grpc, f"{kind}_rpc_method_handler")(
        guard(getattr(handler, kind)), _lenient(handler.request_deserializer), handler.response_serializer
    )
    return made


def _lenient(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as broken:
            return InvalidRequest("message", f"is none of this method: {broken}")

    return decoded


def _of_one(behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(message: Any, context: Context) -> Any:
        if isinstance(message, InvalidRequest):
            await context.abort(status_of(message).grpc, message_of(message), trailing_metadata=trailers(message))
        return await behaviour(message, context)

    return answer


def _of_stream(behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(messages: Any, context: Context) -> Any:
        return await behaviour(_checked(messages), context)

    return answer


async def _checked(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        if isinstance(message, InvalidRequest):
            raise message
        yield message
