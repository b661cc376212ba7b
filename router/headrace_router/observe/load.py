"""Asks every replica how busy it is, each with its own deadline; one that does not answer keeps what is known of it."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import aiohttp

from headrace_router.values import Endpoint, Load, Secured

TIMEOUT = aiohttp.ClientTimeout(total=1.0)
log = logging.getLogger(__name__)


async def ask_all(
    session: aiohttp.ClientSession,
    endpoints: Sequence[Endpoint],
    heard: Callable[[str, Load], None],
    clock: Callable[[], float],
    secured: Secured | None = None,
) -> None:
    """`secured`: how replicas speak TLS, but for their admin port; None: they do not."""
    await asyncio.gather(*(_ask(session, endpoint, heard, clock, secured) for endpoint in endpoints))


async def _ask(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    heard: Callable[[str, Load], None],
    clock: Callable[[], float],
    secured: Secured | None,
) -> None:
    over_tls = secured if endpoint.ports.load == endpoint.ports.http else None
    url = f"{'https' if over_tls else 'http'}://{endpoint.at(endpoint.ports.load)}/load"
    context, name = (over_tls.context, over_tls.name) if over_tls else (True, None)
    try:
        async with session.get(
            url, timeout=TIMEOUT, raise_for_status=True, ssl=context, server_hostname=name
        ) as response:
            told = await response.json()
            heard(endpoint.uid, load(told, clock()))
    except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, KeyError) as error:
        log.debug("%s did not say how busy it is: %s: %s", endpoint.name, type(error).__name__, error)


def load(told: dict[str, object], at: float) -> Load:
    """From the answer to GET /load of a Headrace server. Raises KeyError, TypeError, ValueError."""
    inside, most = told["server_load"], told["max_running"]
    if not (isinstance(inside, int) and isinstance(most, int)):
        raise TypeError("server_load and max_running must be whole numbers")
    return Load(inside, most, at)
