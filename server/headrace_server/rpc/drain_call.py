"""POST /drain: the operator has a replica finish what it has before it deletes the pod."""

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

    async def answer(self, _: web.Request) -> web.StreamResponse:
        """202 with the number of requests inside."""
        if not self.asked.is_set():
            log.info("told to drain by POST /drain")
            self.asked.set()
        return web.json_response({"inside": self._arrivals.inside}, status=202)
