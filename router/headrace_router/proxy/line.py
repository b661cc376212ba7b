"""Envoy's questions off the wire. Every request waits for one, so most are answered in the moment they are read.

aiohttp's parser reads them; its server would make a task, a request and a response of each, which cost as much again as
the choice itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from headrace_router.values import Reply

LIMIT = 1 << 16  # bytes of one question's body; the picker is shown less
Answering = Callable[[str, Mapping[str, str], bytes], Reply | asyncio.Future[Reply]]  # path, headers, body


@asynccontextmanager
async def listening(socket: Path, answering: Answering) -> AsyncIterator[None]:
    """Until it is left. What `answering` gives to wait for is cancelled when Envoy takes the question back."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Line(loop, answering), str(socket))
    try:
        yield
    finally:
        server.close()


class _Line(BaseProtocol):
    """One of Envoy's connections, with one question at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answering: Answering) -> None:
        super().__init__(loop)
        self._answering = answering
        self._reader = HttpRequestParser(self, loop, LIMIT)
        self._asked: tuple[str, Mapping[str, str]] | None = None  # path and headers, until the body is there
        self._body: StreamReader = EMPTY_PAYLOAD
        self._later: asyncio.Future[Reply] | None = None

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        try:
            messages, _, _ = self._reader.feed_data(data)
        except HttpProcessingError:
            self.transport.close()
            return
        for message, body in messages:
            self._asked, self._body = (message.path, message.headers), body
        if self._asked is not None and self._body.is_eof():
            (path, headers), self._asked = self._asked, None
            reply = self._answering(path, headers, self._body.read_nowait())
            if isinstance(reply, Reply):
                self._write(reply)
            else:
                self._later = reply
                reply.add_done_callback(self._write_later)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._later is not None:
            self._later.cancel()

    def _write_later(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled():
            self._write(reply.result())

    def _write(self, reply: Reply) -> None:
        if self.transport is None:  # Envoy left in this very moment
            return
        headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        status = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
        self.transport.write(f"{status}{headers}content-length: {len(reply.body)}\r\n\r\n".encode() + reply.body)
