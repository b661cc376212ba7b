"""`headrace serve` as a process of its own, which a gate asks as any client would."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from headrace_server.client.targets import EmbedTarget, GrpcTarget
from headrace_server.config import Task
from headrace_server.errors import ModelRefused

ADDRESSES = re.compile(r"listening: gRPC (\S+), HTTP (\S+)")
PATIENCE = 900.0  # seconds until a model is loaded, or a request answered
CHANNELS = 4


@dataclass(frozen=True, slots=True)
class Server:
    grpc: str
    http: str
    task: Task

    def target(self) -> GrpcTarget:
        kind = EmbedTarget if self.task is Task.EMBED else GrpcTarget
        return kind(self.grpc, CHANNELS, fresh_connections=False, timeout=PATIENCE)

    async def metric(self, *names: str) -> list[float]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.http}/metrics") as response:
            text = await response.text()
        found = {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }
        return [found[name] for name in names]


@asynccontextmanager
async def serving(options: Sequence[str], log: Path, task: Task = Task.GENERATE) -> AsyncIterator[Server]:
    """`options` of `headrace serve`, `task` among them.

    Raises ModelRefused, with the server's last words, when it ends meanwhile.
    """
    command = [sys.executable, "-m", "headrace_server", *options, "--grpc-port=0", "--http-port=0"]
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        yield await _ready(process, task, log)
    except (ModelRefused, OSError, aiohttp.ClientError) as fault:
        if await _has_ended(process):
            raise ModelRefused(f"the server ended with status {process.returncode}: {await _said(log)}") from fault
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, task: Task, log: Path) -> Server:
    end = time.monotonic() + PATIENCE
    async with aiohttp.ClientSession() as session:
        while process.returncode is None and time.monotonic() < end:
            if found := ADDRESSES.search(await asyncio.to_thread(log.read_text)):
                async with session.get(f"http://{found[2]}/ready") as response:
                    if response.ok:
                        return Server(found[1], found[2], task)
            await asyncio.sleep(0.1)
    raise ModelRefused(f"the server was not ready after {PATIENCE:.0f} s: {await _said(log)}")


async def _has_ended(process: asyncio.subprocess.Process) -> bool:
    """That is heard of a moment after its connections are broken."""
    try:
        async with asyncio.timeout(1.0):
            await process.wait()
    except TimeoutError:
        return False
    return True


async def _said(log: Path) -> str:
    """What it said last."""
    return (await asyncio.to_thread(log.read_text))[-1000:]
