"""What a refused gRPC call says besides its message."""

from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

Detail = TypeVar("Detail", bound=Message)


def status_in(error: grpc.aio.AioRpcError) -> Status:
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    return Status.FromString(trailers["grpc-status-details-bin"])


def detail_of(status: Status, kind: type[Detail]) -> Detail | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def reason_in(status: Status) -> str:
    info = detail_of(status, ErrorInfo)
    assert info is not None
    assert info.domain == "headrace.dev"
    return str(info.reason)


def fields_in(status: Status) -> list[str]:
    found = detail_of(status, BadRequest)
    return [] if found is None else [violation.field for violation in found.field_violations]


def retry_seconds_in(status: Status) -> float | None:
    found = detail_of(status, RetryInfo)
    return None if found is None else found.retry_delay.ToNanoseconds() / 1e9
