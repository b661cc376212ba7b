"""A pulled cable between a client and a server: both keep their connections, and nothing passes any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BlackHole:
    def __init__(self, target: str) -> None:
        self._target = target  # HOST:PORT
        self.address = ""
        self.swallows = False  # True: what is sent from now on is lost, without a word to either side

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.swallows:
                    writer.write(data)
        if not self.swallows:
            writer.close()


@asynccontextmanager
async def black_hole(target: str) -> AsyncIterator[BlackHole]:
    hole = BlackHole(target)
    server = await asyncio.start_server(hole.connect, "127.0.0.1", 0)
    hole.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hole
    finally:
        server.close()
