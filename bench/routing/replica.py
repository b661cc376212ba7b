"""A replica without a model: places of a batch, a queue before them, and a stream whose length the request says.

What a router decides shows in who waits where, and a model would only add noise to that.
"""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from aiohttp import web

METHOD = "/headrace.v1.Inference/Generate"
HOST = "127.0.0.1"


def asked(tokens: int, name: int) -> bytes:
    """A GenerateRequest whose text says its name and how many tokens it wants: field 1, of at most 127 bytes."""
    text = f"{name} {tokens}".encode()
    return bytes([10, len(text)]) + text


class Replica:
    def __init__(self, places: int, token_seconds: float) -> None:
        self.waits: list[float] = []  # s in its queue, of each request
        self.grpc = self.http = 0  # ports
        self._inside = 0
        self._places = asyncio.Semaphore(places)
        self._size = places
        self._token_seconds = token_seconds

    async def generate(self, request: bytes, _: object) -> AsyncIterator[bytes]:
        arrived = time.perf_counter()
        self._inside += 1
        try:
            async with self._places:
                self.waits.append(time.perf_counter() - arrived)
                tokens = int(request.rpartition(b" ")[2])
                if self._token_seconds:  # as one: a thousand timers a second would be the load, not the requests
                    await asyncio.sleep(tokens * self._token_seconds)
                    tokens = 1
                for place in range(tokens):
                    yield struct.pack("d", place)
        finally:
            self._inside -= 1

    async def load(self, _: web.Request) -> web.Response:
        return web.json_response({"server_load": self._inside, "max_running": self._size})


@asynccontextmanager
async def served(replica: Replica) -> AsyncIterator[Replica]:
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(replica.generate)
    service, _, method = METHOD[1:].rpartition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    replica.grpc = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    app = web.Application()
    app.add_routes([web.get("/load", replica.load)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    replica.http = runner.addresses[0][1]
    try:
        yield replica
    finally:
        await server.stop(grace=None)
        await runner.cleanup()
