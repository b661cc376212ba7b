"""What those who run this process ask of it, and no client: metrics, drain, and what else acts on the process.

It has a port of its own with --admin-port, where /health and /ready answer too; without, it is on the HTTP port.
A further route is one line in `Admin.routes`.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from headrace_server.rpc.drain_call import DrainCall
from headrace_server.rpc.identity import IDENTITY, Identity
from headrace_server.rpc.shapes import error_body

OPERATOR = Identity("the operator")  # with a space, which no name in a file of keys can have


class AdminToken:
    """The pod's UID: who may read the pods knows it, the network does not. No tenant's key stands for it."""

    def __init__(self, token: str | None) -> None:
        """`token`: None refuses everybody."""
        self._expected = None if token is None else f"Bearer {token}".encode()

    def is_in(self, authorization: str) -> bool:
        """`authorization`: that header or metadata entry, "" when there is none."""
        given = authorization.encode(errors="surrogateescape")
        return self._expected is not None and hmac.compare_digest(given, self._expected)

    def needed_for(self, handler: Handler) -> Handler:
        """The handler of a route that acts: 401 without the token."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.is_in(request.headers.get("Authorization", "")):
                return await handler(request)
            message = f"{request.method} {request.path} needs `Authorization: Bearer POD_UID` with the UID of this pod"
            body = error_body(message, "authentication_error", None)
            return web.json_response(body, status=401, headers={"WWW-Authenticate": "Bearer"})

        return guarded


@dataclass(frozen=True, slots=True)
class Admin:
    registry: CollectorRegistry
    drain: DrainCall
    token: AdminToken

    def routes(self) -> Sequence[web.RouteDef]:
        """Reading is free to whoever reaches the port; what acts needs the token."""
        return [
            web.get("/metrics", self.expose_metrics),
            web.post("/drain", self.token.needed_for(self.drain.answer)),
        ]

    def completions(self, answer: Handler) -> web.RouteDef:
        """For the operator's golden prompts: it has no tenant's key, and is known by the token."""

        async def asked(request: web.Request) -> web.StreamResponse:
            mark = IDENTITY.set(OPERATOR)
            try:
                return await answer(request)
            finally:
                IDENTITY.reset(mark)

        return web.post("/v1/completions", self.token.needed_for(asked))

    async def expose_metrics(self, request: web.Request) -> web.StreamResponse:
        """All series, or those that ?name[]=NAME asks for, as Prometheus' own exporters have it."""
        names = request.query.getall("name[]", [])
        registry = self.registry.restricted_registry(names) if names else self.registry
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
