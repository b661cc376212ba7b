"""A program of ours as a real process that says in its log where it listens."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

ADDRESSES = re.compile(r"listening: gRPC (\S+), HTTP (\S+)")
# Seconds, as cluster.waiting's HANG, which benches without a cluster do not have on their path. Importing torch alone
# takes half a minute on a busy machine.
PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Listening:
    process: asyncio.subprocess.Process
    log: Path
    grpc: str
    http: str

    def said(self, pattern: re.Pattern[str]) -> str:
        """What the pattern's group has caught in the log."""
        found = pattern.search(self.log.read_text())
        assert found is not None, self.log.read_text()
        return found[1]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def until_answered(self, url: str) -> None:
        """With a status that is no error."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            while self.process.returncode is None:
                async with session.get(url) as response:
                    if response.ok:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(_ended(self.process, self.log))


Kind = TypeVar("Kind", bound=Listening)


@asynccontextmanager
async def listening(
    kind: type[Kind], command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Kind]:
    """Killed when the block is left before it ended. `environment` None: that of the tests."""
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=environment)
    try:
        yield kind(process, log, *await _addresses(process, log))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _addresses(process: asyncio.subprocess.Process, log: Path) -> tuple[str, str]:
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            if found := ADDRESSES.search(log.read_text()):
                return found[1], found[2]
            await asyncio.sleep(0.05)
    raise AssertionError(_ended(process, log))


def _ended(process: asyncio.subprocess.Process, log: Path) -> str:
    return f"the process ended with {process.returncode}:\n{log.read_text()}"
