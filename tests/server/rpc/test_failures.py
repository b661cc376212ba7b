"""A status that a server says itself is no stream that was cut off, whatever its words."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from headrace_server.client.failures import DETAILS, is_cut, words

CUT = "Received RST_STREAM with error code 2"
OWN = Metadata((DETAILS, b""))


@pytest.mark.parametrize(
    ("code", "said", "trailers", "cut"),
    [
        (grpc.StatusCode.INTERNAL, CUT, Metadata(), True),
        (grpc.StatusCode.INTERNAL, CUT, OWN, False),
        (grpc.StatusCode.INTERNAL, "the forward pass broke", Metadata(), False),
        (grpc.StatusCode.UNAVAILABLE, CUT, Metadata(), False),
        (grpc.StatusCode.INTERNAL, None, Metadata(), False),
    ],
)
def test_a_cut_is_told_by_its_frame_and_by_what_is_missing(
    code: grpc.StatusCode, said: str | None, trailers: Metadata, cut: bool
) -> None:
    error = AioRpcError(code, Metadata(), trailers, said)
    assert is_cut(error) is cut
    assert words(error).startswith(f"{code.name}: {said}")
    assert words(error).endswith("ask again") is cut
