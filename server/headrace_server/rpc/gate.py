"""Nobody passes unknown: both doors ask here who is behind a request, before any handler sees it.

Keys name the caller where there are keys, and client certificates where there are none. Where neither is configured,
everybody passes without a name.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from headrace_server.errors import ServerError, Unauthenticated
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.api_keys import Keys
from headrace_server.rpc.caches.note import CACHE_HEADER, NOTE, Note
from headrace_server.rpc.identity import IDENTITY, Identity
from headrace_server.rpc.revocation import Revoked
from headrace_server.rpc.status import status_of, trailers
from headrace_server.rpc.tls import (
    grpc_certificate,
    grpc_certificate_identity,
    http_certificate,
    http_certificate_identity,
)
from headrace_server.rpc.watched import Watched

BEARER = "bearer "
FOUND = web.RequestKey("found", Note)
# Asked by probes, which have no key; and Drain, whose token is none of the keys.
OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
OPEN_METHODS = frozenset(
    {
        "/headrace.v1.Inference/Drain",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)
Details = grpc.HandlerCallDetails
Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # in quotes: at run time it takes no arguments
Behaviour = Callable[[Any, Any], Any]


class Gate:
    def __init__(
        self,
        keys: Watched[Keys] | None,
        *,
        certificates: bool,
        wall_clock: Callable[[], float],
        revoked: Watched[Revoked] | None = None,
    ) -> None:
        """`certificates`: every connection has shown one. `wall_clock` gives seconds since 1970. `revoked`: None: no
        certificate is."""
        self._keys = keys
        self._certificates = certificates
        self._wall_clock = wall_clock
        self._revoked = revoked

    @property
    def asks(self) -> bool:
        return self._keys is not None or self._certificates

    def identity(self, authorization: str, shown: "Shown") -> Identity | None:
        """None: nobody is asked for a name. Raises Unauthenticated."""
        if self._revoked is not None:
            self._revoked.value.check(shown.certificate())
        if self._keys is not None:
            return self._keys.value.identity(_bearer(authorization), self._wall_clock())
        return shown.identity() if self._certificates else None


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate of a connection, read only where it matters."""

    identity: Callable[[], Identity]  # raises Unauthenticated
    certificate: Callable[[], bytes]  # DER or PEM; raises Unauthenticated


def _bearer(authorization: str) -> str:
    if not authorization[: len(BEARER)].lower() == BEARER:
        raise Unauthenticated("send `Authorization: Bearer KEY` with an API key of this server")
    return authorization[len(BEARER) :].strip()


def http_gate(gate: Gate, open_paths: Collection[str]) -> Middleware:
    """`open_paths`: as the routes have them; every other one, known or not, needs an identity."""

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in open_paths:
            return await handler(request)

        shown = Shown(
            lambda: http_certificate_identity(request.get_extra_info("peercert")),
            lambda: http_certificate(request.get_extra_info("ssl_object")),
        )
        identity = gate.identity(request.headers.get("Authorization", ""), shown)
        request[FOUND] = found = Note()
        marks = IDENTITY.set(identity), NOTE.set(found)
        try:
            return await handler(request)
        finally:
            IDENTITY.reset(marks[0])
            NOTE.reset(marks[1])

    return identify


async def tell_cached(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: what the caches found for this request."""
    if (found := request.get(FOUND)) is not None and found.said is not None:
        response.headers[CACHE_HEADER] = found.said


class GrpcGate(grpc.aio.ServerInterceptor):
    def __init__(self, gate: Gate, metrics: ServerMetrics) -> None:
        self._gate = gate
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable["Method | None"]], details: Details
    ) -> "Method | None":
        handler = await continuation(details)
        is_open = details.method in OPEN_METHODS or details.method.split("/")[1] in OPEN_SERVICES
        return handler if handler is None or is_open else self._guarded(handler)

    def _guarded(self, handler: Any) -> Method:
        asked, told = (
            "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
        )
        kind = f"{asked}_{told}"
        behaviour: Behaviour = getattr(handler, kind)
        made: Method = getattr(grpc, f"{kind}_rpc_method_handler")(
            self._asking(behaviour, tells=not handler.request_streaming),
            handler.request_deserializer,
            handler.response_serializer,
        )
        return made

    def _asking(self, behaviour: Behaviour, *, tells: bool) -> Behaviour:
        """`tells`: whether the caches served it; of a stream of requests that would say nothing of any."""

        async def ask(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                IDENTITY.set(self._identity(context))  # of this call's own task
            except ServerError as error:
                await self._refuse(context, error)
            NOTE.set(found := Note())
            reply = await _run(behaviour, request, context)
            if tells and found.said is not None:
                context.set_trailing_metadata((*(context.trailing_metadata() or ()), (CACHE_HEADER, found.said)))
            return reply

        return ask

    def _identity(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity | None:
        said = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), "")
        authorization = said if isinstance(said, str) else said.decode(errors="surrogateescape")
        shown = Shown(
            lambda: grpc_certificate_identity(context.auth_context()),
            lambda: grpc_certificate(context.auth_context()),
        )
        return self._gate.identity(authorization, shown)

    async def _refuse(self, context: grpc.aio.ServicerContext[Any, Any], error: ServerError) -> None:
        status = status_of(error)
        if status.refusal is not None:
            self._metrics.requests_refused.labels(status.refusal).inc()
        await context.abort(status.grpc, str(error), trailing_metadata=trailers(error))


async def _run(behaviour: Behaviour, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """A handler in either form that gRPC takes: a coroutine that returns or writes, or a generator."""
    if not inspect.isasyncgenfunction(behaviour):
        return await behaviour(request, context)
    async with aclosing(behaviour(request, context)) as replies:
        async for reply in replies:
            await context.write(reply)
    return None
