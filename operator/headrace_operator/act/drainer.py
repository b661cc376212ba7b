"""The server's own drain call. It may fail: the next tick asks again, and SIGTERM drains as well."""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp

from headrace_operator.decide.actions import Drain

logger = logging.getLogger(__name__)


class Drainer:
    def __init__(self, session: aiohttp.ClientSession, timeout: float) -> None:
        """`timeout` in seconds for each pod."""
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def ask(self, drains: Sequence[Drain]) -> None:
        """All at once: one that hangs delays no other."""
        await asyncio.gather(*(self._ask(drain) for drain in drains))

    async def _ask(self, drain: Drain) -> None:
        url = f"http://{drain.address}:{drain.port}/drain"
        bearer = {"Authorization": f"Bearer {drain.uid}"}
        try:
            async with self._session.post(url, headers=bearer, timeout=self._timeout) as answer:
                if answer.status != HTTPStatus.ACCEPTED:
                    logger.warning("pod %s does not drain: HTTP status %d", drain.name, answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("pod %s cannot be told to drain: %s: %s", drain.name, type(error).__name__, error)
