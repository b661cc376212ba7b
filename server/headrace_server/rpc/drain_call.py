"""POST /drain, and Drain over gRPC: the operator has a replica finish what it has before it deletes the pod."""

import logging
from asyncio import Event

from aiohttp import web

from headrace_server.rpc.arrivals import Arrivals

log = logging.getLogger(__name__)


class DrainCall:
    """May be repeated. rpc/admin.py asks for the token before."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.asked = Event()
        self._arrivals = arrivals

    def ask(self, by: str) -> int:
        """The number of requests inside. `by`: who asks, for the log."""
        if not self.asked.is_set():
            log.info("told to drain by %s", by)
            self.asked.set()
        return self._arrivals.inside

    async def answer(self, _: web.Request) -> web.StreamResponse:
        """202 with the number of requests inside."""
        return web.json_response({"inside": self.ask("POST /drain")}, status=202)
