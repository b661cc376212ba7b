"""`headrace serve` as a real process, on ports that it picks itself."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

HEADRACE = Path(sys.executable).parent / "headrace"
NAME = "tiny"
ADMIN = re.compile(r"metrics and drain: (\S+)")
LISTENING = re.compile(r"listening: gRPC (\S+), HTTP (\S+)")
PATIENCE = 90  # seconds; importing torch takes most of them on a busy machine


@dataclass(frozen=True, slots=True)
class ServedProcess:
    process: asyncio.subprocess.Process
    log: Path
    grpc: str
    http: str

    @property
    def admin(self) -> str:
        """Where it answers /metrics and /drain: the same as `http` without --admin-port."""
        found = ADMIN.search(self.log.read_text())
        assert found is not None
        return found[1]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def until_ready(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            while self.process.returncode is None:
                async with session.get(f"http://{self.http}/ready") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.1)
        raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")


def serve_command(model: Path, *flags: str) -> list[str]:
    fixed = ["--host=127.0.0.1", "--grpc-port=0", "--http-port=0", "--device=cpu", "--dtype=float32"]
    return [str(HEADRACE), "serve", f"--model={model}", f"--name={NAME}", *fixed, *flags]


def environment(**more: str) -> dict[str, str]:
    # One thread: the tests share a small machine, and a tiny model gains nothing from more.
    return dict(os.environ) | {"OMP_NUM_THREADS": "1"} | more  # noqa: TID251


@asynccontextmanager
async def served(
    command: Sequence[str], directory: Path, *, ready: bool = True, **variables: str
) -> AsyncIterator[ServedProcess]:
    """Started, listening and (unless told otherwise) ready. Killed when the block is left before it ended."""
    log = directory / "server.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environment(**variables)
        )
    try:
        grpc, http = await _addresses(process, log)
        server = ServedProcess(process, log, grpc, http)
        if ready:
            await server.until_ready()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _addresses(process: asyncio.subprocess.Process, log: Path) -> tuple[str, str]:
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            if found := LISTENING.search(log.read_text()):
                return found[1], found[2]
            await asyncio.sleep(0.05)
    raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()}")
