"""One answer as a whole: what the HTTP door sends to those who do not stream, and what an offline job keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.answers import Answers, joined
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.openai import Body
from headrace_server.rpc.shapes import Shape


async def whole(answers: Answers, ask: Ask, shape: Shape) -> dict[str, Any]:
    """OpenAI's JSON. Raises ServerError."""
    async with answers.open(ask) as pieces:
        piece = joined([piece async for piece in pieces])
    if piece.finish is None or piece.usage is None:
        raise AssertionError("the engine ended a stream without saying why. This is a bug.")
    return shape.whole(piece, piece.usage)


@contextmanager
def in_the_words_of(body: Body) -> Iterator[None]:
    """Calls the field of an InvalidRequest as the client did."""
    try:
        yield
    except InvalidRequest as invalid:
        raise InvalidRequest(body.called(invalid.field), invalid.message) from invalid
