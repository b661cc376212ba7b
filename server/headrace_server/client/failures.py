"""What a failed call over gRPC says to people, and whether its stream was cut off rather than ended."""

import grpc

DETAILS = "grpc-status-details-bin"  # with every status that a Headrace server says itself


def words(error: grpc.aio.AioRpcError) -> str:
    """Status and message in one line."""
    said = f"{error.code().name}: {error.details()}"
    return f"{said}; the replica that answered is gone, ask again" if is_cut(error) else said


def is_cut(error: grpc.aio.AioRpcError) -> bool:
    """Nobody ended the stream: a proxy reset it, because the replica behind it died after its first token.

    gRPC has no status for that, so its libraries say INTERNAL of the HTTP/2 frame (grpc's PROTOCOL-HTTP2.md, "Errors").
    """
    own_words = any(name == DETAILS for name, _ in error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "") and not own_words
