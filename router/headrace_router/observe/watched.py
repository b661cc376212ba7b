"""Objects of the API server by their UID: a list, then what changes, then a list again.

While the API server does not answer, what was last known goes on being used: replicas do not leave with it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio import client, watch

LIST_AGAIN = 60  # seconds: a watch that has silently stopped costs no more than this
RETRY = 1.0  # seconds
REFUSED_RETRY = 60.0  # seconds, where the API server knows no such kind, or does not let us see it
PATIENCE = 10.0  # seconds for a list, and beyond LIST_AGAIN for a watch that never ends
Body = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list, and by which of the generated client's functions."""

    what: str  # in the log
    plain: Callable[..., Any]  # its answer is read by us
    watched: Callable[..., Any]  # the same call, for the client's watch
    place: tuple[str, ...]  # their positional arguments
    selector: Mapping[str, str]


async def objects(listing: Listing) -> AsyncIterator[Mapping[str, Body]]:
    """Whenever something may have changed. Never ends, and raises nothing but what cancels it."""
    while True:
        wait = RETRY
        try:
            async for found in _once(listing):
                yield found
                wait = 0.0
        except (client.ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            refused = isinstance(error, client.ApiException) and error.status in (
                HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND,
            )  # fmt: skip
            wait = REFUSED_RETRY if refused else RETRY
            log.warning("the API server did not list the %s: %s: %s", listing.what, type(error).__name__, error)
        await asyncio.sleep(wait)


async def _once(listing: Listing) -> AsyncIterator[Mapping[str, Body]]:
    answer = await listing.plain(*listing.place, **listing.selector, _request_timeout=PATIENCE)
    if answer.status != HTTPStatus.OK:
        raise client.ApiException(status=answer.status, reason=answer.reason)
    listed = await answer.json()
    known: dict[str, Body] = {each["metadata"]["uid"]: each for each in listed["items"]}
    yield known
    events = watch.Watch().stream(
        listing.watched, *listing.place, **listing.selector,
        resource_version=listed["metadata"]["resourceVersion"],
        timeout_seconds=LIST_AGAIN, _request_timeout=LIST_AGAIN + PATIENCE,
    )  # fmt: skip
    async with events:
        async for event in events:
            body = event["raw_object"]
            if event["type"] == "DELETED":  # likewise when it is selected no more
                known.pop(body["metadata"]["uid"], None)
            else:
                known[body["metadata"]["uid"]] = body
            yield known
