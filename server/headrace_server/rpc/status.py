"""What an error is called on the wire: one table for both doors."""

import math
from dataclasses import dataclass, replace

from grpc import StatusCode

from headrace_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Refusal,
    ServerError,
    UnknownModel,
)


@dataclass(frozen=True, slots=True)
class Status:
    grpc: StatusCode
    http: int
    kind: str  # `type` of an OpenAI error body
    refusal: (
        Refusal | None
    )  # label `reason` of headrace_requests_refused; None: admitted first, and counted as finished


STATUS: dict[type[ServerError], Status] = {
    InvalidRequest: Status(StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error", Refusal.INVALID),
    UnknownModel: Status(StatusCode.NOT_FOUND, 404, "model_not_found", Refusal.UNKNOWN_MODEL),
    Overloaded: Status(StatusCode.RESOURCE_EXHAUSTED, 429, "overloaded_error", Refusal.OVERLOADED),
    DeadlineExceeded: Status(StatusCode.DEADLINE_EXCEEDED, 504, "timeout_error", None),
    Draining: Status(StatusCode.UNAVAILABLE, 503, "unavailable_error", Refusal.UNAVAILABLE),
    # Not UNAVAILABLE, which clients retry: the same request might break the next replica too.
    EngineFailed: Status(StatusCode.INTERNAL, 500, "server_error", None),
}


def status_of(error: ServerError) -> Status:
    """Raises KeyError for an error that must not reach a client, such as ModelRefused."""
    status = STATUS[type(error)]
    return replace(status, refusal=error.reason) if isinstance(error, Overloaded) else status


def trailers(error: ServerError) -> tuple[tuple[str, str], ...]:
    """What a gRPC client can act on without reading the message."""
    match error:
        case Overloaded(retry_after=seconds):
            return (("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))),)
        case InvalidRequest(field=field):
            return (("headrace-field", field),)
        case _:
            return ()


def http_headers(error: ServerError) -> dict[str, str]:
    """Retry-After in whole seconds, at least one, as HTTP has it."""
    match error:
        case Overloaded(retry_after=seconds):
            return {"Retry-After": str(max(1, math.ceil(seconds)))}
        case Draining():
            return {"Retry-After": "1"}
        case _:
            return {}
