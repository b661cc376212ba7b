"""Questions off the wire, as they may arrive: in pieces, one after the other, broken, or taken back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from headrace_router.proxy.line import LIMIT, listening
from headrace_router.values import Reply
from hypothesis import given
from hypothesis import strategies as st

QUESTION = b"POST /http/v1 HTTP/1.1\r\nHost: picker\r\nX-Request-Id: one\r\nContent-Length: 5\r\n\r\nhello"
ANSWER = b"HTTP/1.1 200 OK\r\nx-said: /http/v1 one hello\r\ncontent-length: 0\r\n\r\n"


def said(path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    return Reply(200, {"x-said": f"{path} {headers['x-request-id']} {body.decode()}"})


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with listening(folder / "line", said):
        reader, writer = await asyncio.open_unix_connection(str(folder / "line"))
        try:
            yield reader, writer
        finally:
            writer.close()


@given(st.lists(st.integers(0, len(QUESTION)), max_size=3))
def test_a_question_may_come_in_pieces(cuts: list[int]) -> None:
    asyncio.run(in_pieces(cuts))


async def in_pieces(cuts: list[int]) -> None:
    with TemporaryDirectory() as folder:
        async with connected(Path(folder)) as (reader, writer):
            for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(QUESTION)], strict=True):
                writer.write(QUESTION[begin:end])
                await asyncio.sleep(0)
            async with asyncio.timeout(300):
                assert await reader.readexactly(len(ANSWER)) == ANSWER


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer), asyncio.timeout(300):
        for _ in range(3):
            writer.write(QUESTION)
            assert await reader.readexactly(len(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"\x00\x01\r\n\r\n", id="no HTTP"),
        pytest.param(b"POST /http/v1 HTTP/1.1\r\nno header\r\n\r\n", id="a line that is no header"),
        pytest.param(QUESTION.replace(b": 5", b": five"), id="a length that is no number"),
        pytest.param(QUESTION + QUESTION, id="two at once"),
        pytest.param(QUESTION.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), id="of no known length"),
        pytest.param(b"POST /" + b"x" * LIMIT, id="without an end"),
    ],
)
async def test_what_is_no_question_ends_its_connection(tmp_path: Path, words: bytes) -> None:
    async with connected(tmp_path) as (reader, writer), asyncio.timeout(300):
        writer.write(words)
        with contextlib.suppress(ConnectionResetError):  # the rest of it was not read any more
            assert await reader.read() == b""


async def test_of_two_headers_with_one_name_the_first_counts(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer), asyncio.timeout(300):
        writer.write(QUESTION.replace(b"Content-Length", b"x-request-id: two\r\nContent-Length"))
        assert await reader.readexactly(len(ANSWER)) == ANSWER


async def test_a_header_that_is_no_text_is_no_reason_to_answer_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer), asyncio.timeout(300):
        writer.write(QUESTION.replace(b"one", b"\xff"))
        answer = ANSWER.replace(b"one", "\N{REPLACEMENT CHARACTER}".encode())
        assert await reader.readexactly(len(answer)) == answer


async def test_a_question_that_is_taken_back_is_cancelled(tmp_path: Path) -> None:
    held: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    def answering(*_: object) -> asyncio.Future[Reply]:
        asked.set()
        return held

    async with listening(tmp_path / "line", answering):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "line"))
        writer.write(QUESTION)
        await asked.wait()
        writer.close()
        async with asyncio.timeout(300):
            while not held.cancelled():
                await asyncio.sleep(0.01)
