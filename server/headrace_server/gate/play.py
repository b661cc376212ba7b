"""A real server as its own process, asked over gRPC: as many as it carries, for minutes, and then more than that."""

import asyncio
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from headrace_server.client.load import LoadPlan, run_load
from headrace_server.client.prompts import BUILT_IN, draw_prompt
from headrace_server.client.summary import LoadSummary, percentile
from headrace_server.client.targets import GrpcTarget, Job, Reception, RequestFailed
from headrace_server.errors import ModelRefused
from headrace_server.gate.checks import Peak, Steady

ADDRESSES = re.compile(r"listening: gRPC (\S+), HTTP (\S+)")
MEMORY, TOTAL, FREE = "process_resident_memory_bytes", "headrace_kv_pages_total", "headrace_kv_pages_free"
PATIENCE = 900.0  # seconds until a model is loaded
REST = 60.0  # seconds until the last request is gone
REFUSED = "RESOURCE_EXHAUSTED"
WORDS, ANSWERS = (8, 32), (16, 64)  # words of a prompt, tokens of an answer: least and most
CHANNELS = 4


@dataclass(frozen=True, slots=True)
class Server:
    grpc: str
    http: str

    async def metric(self, *names: str) -> list[float]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.http}/metrics") as response:
            text = await response.text()
        found = {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }
        return [found[name] for name in names]


@asynccontextmanager
async def serving(options: Sequence[str], log: Path) -> AsyncIterator[Server]:
    """`options` of `headrace serve`. Raises ModelRefused, with the server's last words, when it ends meanwhile."""
    command = [sys.executable, "-m", "headrace_server", *options, "--grpc-port=0", "--http-port=0"]
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        yield await _ready(process, log)
    except (ModelRefused, OSError, aiohttp.ClientError) as fault:
        if await _has_ended(process):
            raise ModelRefused(f"the server ended with status {process.returncode}: {await _said(log)}") from fault
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, log: Path) -> Server:
    end = time.monotonic() + PATIENCE
    async with aiohttp.ClientSession() as session:
        while process.returncode is None and time.monotonic() < end:
            if found := ADDRESSES.search(await asyncio.to_thread(log.read_text)):
                async with session.get(f"http://{found[2]}/ready") as response:
                    if response.ok:
                        return Server(found[1], found[2])
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


async def capacity(server: Server, callers: int, seconds: float) -> tuple[float, float]:
    """Requests and answer tokens a second while so many ask again as soon as they are answered.

    Raises ModelRefused when one of them is not answered.
    """
    target, dice = GrpcTarget(server.grpc, CHANNELS, fresh_connections=False, timeout=PATIENCE), random.Random(1)
    words, ends, failures = BUILT_IN.split(), list[tuple[float, int]](), list[str]()
    begin = time.monotonic() + seconds / 4  # what is made once is made by then
    end = begin + seconds

    async def again() -> None:
        while time.monotonic() < end:
            reception = Reception(clock=time.monotonic)
            prompt = draw_prompt(words, dice.randint(*WORDS), dice)
            try:
                await target.send(Job(prompt, dice.randint(*ANSWERS), 0.0, ignore_eos=True), reception)
            except RequestFailed as failed:
                failures.append(str(failed))
                return
            ends.append((time.monotonic(), reception.generated_tokens))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(again())
    finally:
        await target.close()
    if failures:
        raise ModelRefused(f"a server with {callers} callers, as many as it runs at once, answered one: {failures[0]}")
    inside = [tokens for at, tokens in ends if begin <= at < end]
    return len(inside) / seconds, sum(inside) / seconds


async def steady(server: Server, rate: float, seconds: float, tell: Callable[[str], None]) -> Steady:
    """`rate`: requests a second, which come by chance. Raises OSError, aiohttp.ClientError: the server is gone."""
    memory: list[float] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(seconds / 30)
            memory.extend(await server.metric(MEMORY))
            tell(f"steady load: {memory[-1] / 2**20:.0f} MiB")

    watching, load = asyncio.create_task(watch()), asyncio.create_task(run_load(_plan(server, rate, seconds)))
    try:
        await asyncio.wait((watching, load), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():  # it never returns: the server did not tell its memory
            await watching
        summary = await load
    finally:
        watching.cancel()
        load.cancel()
        await asyncio.gather(watching, load, return_exceptions=True)
    third = max(1, len(memory) // 3)
    total, free = await _at_rest(server)
    return Steady(
        seconds=summary.seconds,
        sent=len(summary.outcomes),
        failed=sum(one.failure is not None for one in summary.outcomes),
        memory_middle=statistics.median(memory[third : 2 * third] or memory),
        memory_last=statistics.median(memory[-third:]),
        pages_total=int(total),
        pages_free=int(free),
    )


async def peak(server: Server, rate: float, seconds: float) -> Peak:
    return peak_of(await run_load(_plan(server, rate, seconds)), rate)


def peak_of(summary: LoadSummary, rate: float) -> Peak:
    failed = [one for one in summary.outcomes if one.failure is not None]
    refused = [one for one in failed if (one.failure or "").startswith(REFUSED)]
    waits = sorted(one.queue_wait for one in summary.outcomes if one.failure is None and one.queue_wait is not None)
    return Peak(
        rate=rate,
        sent=len(summary.outcomes),
        refused=len(refused),
        refused_without_pushback=sum(one.again is None for one in refused),
        errors=len(failed) - len(refused),
        wait_p99=percentile(waits, 0.99) if waits else None,
    )


def _plan(server: Server, rate: float, seconds: float) -> LoadPlan:
    return LoadPlan(
        rate=rate,
        target=server.grpc,
        duration=seconds,
        prompt_words=WORDS,
        max_new_tokens=ANSWERS,
        ignore_eos=True,
        channels=CHANNELS,
        timeout=PATIENCE,
    )


async def _at_rest(server: Server) -> list[float]:
    """Pages in all, and free ones, as soon as both are the same; or after a while."""
    end = time.monotonic() + REST
    while True:
        total, free = await server.metric(TOTAL, FREE)
        if total == free or time.monotonic() > end:
            return [total, free]
        await asyncio.sleep(0.2)
