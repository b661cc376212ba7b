"""POST /drain: the operator has a replica finish what it has before it deletes the pod."""

import hmac
import logging
from asyncio import Event

from aiohttp import web

from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.shapes import error_body

log = logging.getLogger(__name__)


class DrainCall:
    """May be repeated. The bearer token is the pod's UID: who may read the pods knows it, the network does not."""

    def __init__(self, token: str | None, arrivals: Arrivals) -> None:
        """`token`: None refuses everybody."""
        self.asked = Event()
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._arrivals = arrivals

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """202 with the number of requests inside; 401 without the token."""
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if self._expected is None or not hmac.compare_digest(given, self._expected):
            message = "POST /drain needs the header `Authorization: Bearer POD_UID` with the UID of this pod"
            body = error_body(message, "authentication_error", None)
            return web.json_response(body, status=401, headers={"WWW-Authenticate": "Bearer"})
        if not self.asked.is_set():
            log.info("told to drain by POST /drain")
            self.asked.set()
        return web.json_response({"inside": self._arrivals.inside}, status=202)
