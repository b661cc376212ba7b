"""What an error is called on the wire: one table for both doors."""

import math
from dataclasses import dataclass, replace

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpc import StatusCode

from headrace_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    NotNow,
    Overloaded,
    PermissionDenied,
    Refusal,
    ServerError,
    Unauthenticated,
    UnknownModel,
)

DOMAIN = "headrace.dev"  # of ErrorInfo; its reason is a Refusal's name, or that of the gRPC code
# Bytes of a message: it is sent three times, once with %XX for bytes outside ASCII, and a gRPC client drops a call's
# whole end when its trailers are longer than 8 KiB. Some messages repeat what they refuse, a regular expression say.
LONGEST_MESSAGE = 1000
ANOTHER_REPLICA = 1.0  # seconds until a client's routing has likely heard that this one leaves


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
    NotNow: Status(StatusCode.FAILED_PRECONDITION, 409, "conflict_error", None),
    # Not UNAVAILABLE, which clients retry: the same request might break the next replica too.
    EngineFailed: Status(StatusCode.INTERNAL, 500, "server_error", None),
}


def status_of(error: ServerError) -> Status:
    """Raises KeyError for an error that must not reach a client, such as ModelRefused."""
    status = STATUS[type(error)]
    return replace(status, refusal=error.reason) if isinstance(error, Overloaded) else status


def trailers(error: ServerError) -> tuple[tuple[str, str | bytes], ...]:
    """What a gRPC client can act on without reading the message: google.rpc.Status, and for gRPC itself and for those
    who read no protobuf the same in plain metadata.

    The pushback is for gRPC's own retries (proposal A6), RetryInfo for those who retry by hand (AIP-193).
    """
    details = ("grpc-status-details-bin", bytes(rpc_status(error).SerializeToString()))
    match error:
        case Overloaded(retry_after=seconds):
            return (("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))), details)
        case InvalidRequest(field=field):
            return (("headrace-field", field), details)
        case _:
            return (details,)


def message_of(error: ServerError) -> str:
    """Bounded in length."""
    raw = str(error).encode(errors="replace")
    return raw.decode() if len(raw) <= LONGEST_MESSAGE else raw[:LONGEST_MESSAGE].decode(errors="ignore") + " ..."


def rpc_status(error: ServerError) -> RpcStatus:
    """As it ends a call, or stands for one answer among several."""
    status = status_of(error)
    message = message_of(error)
    whole = RpcStatus(code=status.grpc.value[0], message=message)
    reason = status.grpc if status.refusal is None else status.refusal
    whole.details.add().Pack(ErrorInfo(reason=reason.name, domain=DOMAIN))
    match error:
        case InvalidRequest(field=field):
            violation = BadRequest.FieldViolation(field=field, description=message.removeprefix(f"{field}: "))
            whole.details.add().Pack(BadRequest(field_violations=[violation]))
        case Overloaded(retry_after=seconds):
            whole.details.add().Pack(_retry_info(seconds))
        case Draining():
            whole.details.add().Pack(_retry_info(ANOTHER_REPLICA))
    return whole


def _retry_info(seconds: float) -> RetryInfo:
    when = RetryInfo()
    when.retry_delay.FromMilliseconds(math.ceil(seconds * 1000))
    return when


def http_headers(error: ServerError) -> dict[str, str]:
    """Retry-After in whole seconds, at least one, as HTTP has it."""
    match error:
        case Overloaded(retry_after=seconds):
            return {"Retry-After": str(max(1, math.ceil(seconds)))}
        case Draining():
            return {"Retry-After": f"{ANOTHER_REPLICA:.0f}"}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {}
