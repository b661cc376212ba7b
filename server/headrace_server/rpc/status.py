"""What an error is called on the wire: one table for both doors."""

import math
from dataclasses import dataclass, replace

from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpc import StatusCode

from headrace_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    Refusal,
    ServerError,
    Unauthenticated,
    UnknownModel,
)


@dataclass(frozen=True, slots=True)
class Status:
    grpc: StatusCode
    http: int
    kind: str  # `type` of an OpenAI error body
    # Label `reason` of headrace_requests_refused; None: counted elsewhere, as finished or as expired.
    refusal: Refusal | None


STATUS: dict[type[ServerError], Status] = {
    InvalidRequest: Status(StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error", Refusal.INVALID),
    UnknownModel: Status(StatusCode.NOT_FOUND, 404, "model_not_found", Refusal.UNKNOWN_MODEL),
    Unauthenticated: Status(StatusCode.UNAUTHENTICATED, 401, "authentication_error", Refusal.UNAUTHENTICATED),
    PermissionDenied: Status(StatusCode.PERMISSION_DENIED, 403, "permission_error", Refusal.FORBIDDEN),
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


def trailers(error: ServerError) -> tuple[tuple[str, str | bytes], ...]:
    """What a gRPC client can act on without reading the message.

    The pushback is for gRPC's own retries (proposal A6), RetryInfo for those who retry by hand (AIP-193).
    """
    match error:
        case Overloaded(retry_after=seconds):
            pushback = ("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000)))
            return (pushback, ("grpc-status-details-bin", _retry_info(str(error), seconds)))
        case InvalidRequest(field=field):
            return (("headrace-field", field),)
        case _:
            return ()


def _retry_info(message: str, seconds: float) -> bytes:
    """The trailer holds a whole google.rpc.Status, which repeats code and message."""
    when = RetryInfo()
    when.retry_delay.FromMilliseconds(math.ceil(seconds * 1000))
    status = RpcStatus(code=StatusCode.RESOURCE_EXHAUSTED.value[0], message=message)
    status.details.add().Pack(when)
    return bytes(status.SerializeToString())


def http_headers(error: ServerError) -> dict[str, str]:
    """Retry-After in whole seconds, at least one, as HTTP has it."""
    match error:
        case Overloaded(retry_after=seconds):
            return {"Retry-After": str(max(1, math.ceil(seconds)))}
        case Draining():
            return {"Retry-After": "1"}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {}
