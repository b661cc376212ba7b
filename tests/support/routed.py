"""`headrace route` as a real process with a real Envoy, on ports that it picks itself."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from listening import PATIENCE, Listening, listening

ADMIN = re.compile(r"metrics and health: (\S+)")


class Routed(Listening):
    __slots__ = ()

    @property
    def admin(self) -> str:
        """Where it answers /metrics and its probes."""
        return self.said(ADMIN)

    async def metrics(self) -> dict[str, float]:
        """Value of each series, by its line's beginning."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    async def until(self, series: str, value: float) -> None:
        """The value that a series of /metrics comes to."""
        async with asyncio.timeout(PATIENCE):
            while (await self.metrics()).get(series) != value:
                await asyncio.sleep(0.05)


def command(*flags: str) -> list[str]:
    ports = ["--grpc-port=0", "--http-port=0", "--admin-port=0", "--threads=1"]
    return [sys.executable, "-m", "headrace_router", "--host=127.0.0.1", *ports, *flags]


@asynccontextmanager
async def routed(log: Path, *flags: str) -> AsyncIterator[Routed]:
    async with listening(Routed, command(*flags), log) as router:
        await router.until_answered(f"http://{router.admin}/readyz")
        yield router
