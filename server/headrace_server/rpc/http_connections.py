"""Which HTTP connections carry a request right now, so that a replica that leaves can hang up the others.

A client that kept one since before would send its next request to a replica that refuses. aiohttp's own `pre_shutdown`
leaves such a connection open and unheard until the process ends.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpConnections:
    def __init__(self) -> None:
        self._busy: set[RequestHandler] = set()

    def follow(self, app: web.Application) -> None:
        """Before the app runs."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                self._busy.discard(request.protocol)

        app.middlewares.insert(0, note)

    def hang_up_idle(self, server: web.Server) -> None:
        """What is written is still sent. The others close when what they carry is answered."""
        for connection in server.connections:
            if connection in self._busy:
                connection.close()
            else:
                connection.force_close()
