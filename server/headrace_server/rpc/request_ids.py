"""X-Request-Id: by it a caller's log and ours speak of the same request. The caller's own, or one that we give."""

import re
from uuid import uuid4

from aiohttp import web

HEADER = "X-Request-Id"
KEY = web.RequestKey("request_id", str)
GIVEN = re.compile(r"[\x21-\x7e]{1,128}")  # goes into our log and back into a header as it is


def request_id(request: web.Request) -> str:
    """The same at every call for one request."""
    if KEY not in request:
        given = request.headers.get(HEADER, "")
        request[KEY] = given if GIVEN.fullmatch(given) else uuid4().hex
    return request[KEY]


async def name_request(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`."""
    response.headers[HEADER] = request_id(request)
