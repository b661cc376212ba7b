"""`headrace route` as a real process with a real Envoy, on ports that it picks itself."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

LISTENING = re.compile(r"listening: gRPC (\S+), HTTP (\S+)")
ADMIN = re.compile(r"metrics and health: (\S+)")
PATIENCE = 60  # seconds; a busy machine


@dataclass(frozen=True, slots=True)
class Routed:
    process: asyncio.subprocess.Process
    log: Path
    grpc: str
    http: str
    admin: str

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def until_ready(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            while not await self._is_ready(session):
                await asyncio.sleep(0.05)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        async with session.get(f"http://{self.admin}/readyz") as response:
            return response.ok

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
    with log.open("w") as sink:
        process = await asyncio.create_subprocess_exec(*command(*flags), stdout=sink, stderr=sink)
    try:
        async with asyncio.timeout(PATIENCE):
            while not (found := LISTENING.search(log.read_text())):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        admin = ADMIN.search(log.read_text())
        assert admin is not None
        router = Routed(process, log, found[1], found[2], admin[1])
        await router.until_ready()
        yield router
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
