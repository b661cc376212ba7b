"""Envoy's questions off the wire. Every request waits for one, so most are answered in the moment they are read.

Read by hand: nobody but our own Envoy speaks here, one question at a time, each with its length. A parser for everybody
costs as much as the choice itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, cast

from headrace_router.values import Reply

LIMIT = 1 << 18  # bytes of one question: Envoy takes 64 KiB of headers, and the picker is shown 8 KiB of a body
STATUS_LINES: dict[int, str] = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
Answering = Callable[[str, Mapping[str, str], bytes], Reply | asyncio.Future[Reply]]  # path, headers, body


@asynccontextmanager
async def listening(socket: Path, answering: Answering) -> AsyncIterator[None]:
    """Until it is left. What `answering` gives to wait for is cancelled when Envoy takes the question back."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Line(answering), str(socket))
    try:
        yield
    finally:
        server.close()


class _Question(NamedTuple):
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class _Line(asyncio.Protocol):
    """One of Envoy's connections."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._transport: asyncio.WriteTransport | None = None  # None: Envoy is not there yet, or has left
        self._come = b""  # of a question whose end is not there yet
        self._later: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._come += data
        try:
            question = _read(self._come)
        except ValueError:
            self._transport.close()
            return
        if question is None:
            return
        self._come = b""
        reply = self._answering(*question)
        if isinstance(reply, Reply):
            self._write(reply)
        else:
            self._later = reply
            reply.add_done_callback(self._write_later)

    def connection_lost(self, exc: BaseException | None) -> None:
        del exc
        self._transport = None
        if self._later is not None:
            self._later.cancel()

    def _write_later(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled():
            self._write(reply.result())

    def _write(self, reply: Reply) -> None:
        if self._transport is None:  # Envoy left in this very moment
            return
        headers = "".join([f"{name}: {value}\r\n" for name, value in reply.headers.items()])
        self._transport.write(
            f"{STATUS_LINES[reply.status]}{headers}content-length: {len(reply.body)}\r\n\r\n".encode() + reply.body
        )


def _read(come: bytes) -> _Question | None:
    """None while it is not all there. Raises ValueError for what is no question."""
    head, end, body = come.partition(b"\r\n\r\n")
    if len(come) > LIMIT:
        raise ValueError("longer than any question")
    if not end:
        return None
    first, *lines = head.decode(errors="replace").split("\r\n")
    _, path, _ = first.split(" ")
    headers = {}
    for line in reversed(lines):  # of two with one name the first counts
        name, value = line.split(":", 1)
        headers[name.lower()] = value.strip()
    length = int(headers["content-length"]) if "content-length" in headers else 0
    if length < len(body) or "transfer-encoding" in headers:
        raise ValueError("not the one question that its length says")
    return _Question(path, headers, body) if length == len(body) else None
