"""What every method of the gRPC door does around its work: count who is inside, say who asks, refuse in one form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from google.rpc.status_pb2 import Status as RpcStatus
from grpc.aio import ServicerContext

from headrace_server.errors import ServerError
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.callers import Asked, Callers
from headrace_server.rpc.load_report import in_trailers
from headrace_server.rpc.readiness import Readiness
from headrace_server.rpc.status import message_of, rpc_status, status_of, trailers

Context = ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """What this process serves, as clients are told."""

    name: str
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Calls:
    """Shared by the services of one door."""

    served: Served
    readiness: Readiness
    metrics: ServerMetrics
    arrivals: Arrivals
    callers: Callers

    @asynccontextmanager
    async def one(self, context: Context) -> AsyncIterator[None]:
        """One request, from its first look to its last byte. A ServerError inside ends the call with its status."""
        with self.arrivals.one():
            async with self.refusing(context):
                yield
                context.set_trailing_metadata(in_trailers(self.metrics))

    @asynccontextmanager
    async def refusing(self, context: Context) -> AsyncIterator[None]:
        """Likewise, of what is no request: it asks about the server, or holds requests that are counted one by one."""
        try:
            yield
        except ServerError as error:
            self.count(error)
            await context.abort(status_of(error).grpc, message_of(error), trailing_metadata=trailers(error))

    def refused(self, error: ServerError) -> RpcStatus:
        """For one request among several, which go on."""
        self.count(error)
        return rpc_status(error)

    def complete(self, ask: Asked, context: Context) -> Asked:
        """With tenant and deadline. Raises ServerError."""
        return self.callers.complete(ask, _metadata(context), context.time_remaining())

    def check_caller(self, context: Context) -> None:
        """Raises what would refuse every request of this caller, before the first of several is looked at."""
        self.callers.caller(_metadata(context))

    def count(self, error: ServerError) -> None:
        refusal = status_of(error).refusal
        if refusal is not None:
            self.metrics.requests_refused.labels(refusal).inc()


def _metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
