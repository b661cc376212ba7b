"""One answer as a whole: what the HTTP door sends to those who do not stream, and what an offline job keeps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.answers import Answers, Piece, joined
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.choices import opened
from headrace_server.rpc.openai import Body
from headrace_server.rpc.shapes import Shape


async def whole(answers: Answers, asks: Sequence[Ask], n: int, shape: Shape) -> dict[str, Any]:
    """OpenAI's JSON, with n choices of each prompt. Raises ServerError."""
    found: list[list[Piece]] = [[] for _ in range(len(asks) * n)]
    async with opened(answers, asks, n) as pieces:
        async for index, piece in pieces:
            found[index].append(piece)
    choices = [joined(each) for each in found]
    if any(choice.finish is None for choice in choices):
        raise AssertionError("the engine ended a stream without saying why. This is a bug.")
    return shape.whole(choices)


@contextmanager
def in_the_words_of(body: Body) -> Iterator[None]:
    """Calls the field of an InvalidRequest as the client did."""
    try:
        yield
    except InvalidRequest as invalid:
        raise InvalidRequest(body.called(invalid.field), invalid.message, invalid.code) from invalid
