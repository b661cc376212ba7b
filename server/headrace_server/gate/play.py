"""What a real server is asked, over gRPC: as much as it carries, for minutes, and then more than that."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable

from headrace_server.client.load import LoadPlan, run_load
from headrace_server.client.prompts import BUILT_IN, draw_prompt
from headrace_server.client.summary import LoadSummary, percentile
from headrace_server.client.targets import Job, Reception, RequestFailed
from headrace_server.config import Task
from headrace_server.errors import ModelRefused
from headrace_server.gate.checks import Peak, Steady
from headrace_server.gate.server_process import Server

MEMORY, TOTAL, FREE = "process_resident_memory_bytes", "headrace_kv_pages_total", "headrace_kv_pages_free"
REST = 60.0  # seconds until the last request is gone
REFUSED = "RESOURCE_EXHAUSTED"
WORDS = {Task.GENERATE: (8, 32), Task.EMBED: (8, 128)}  # of a prompt, or of a text to embed: least and most
ANSWERS = (16, 64)  # tokens, likewise


async def capacity(server: Server, callers: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and tokens of answers or of texts to embed, while so many ask again as soon as they have one.

    Raises ModelRefused when one of them is not answered.
    """
    target, dice, length = server.target(), random.Random(1), WORDS[server.task]
    words, ends, failures = BUILT_IN.split(), list[tuple[float, int]](), list[str]()
    embeds = server.task is Task.EMBED
    begin = time.monotonic() + seconds / 4  # what is made once is made by then
    end = begin + seconds

    async def again() -> None:
        while time.monotonic() < end:
            reception = Reception(clock=time.monotonic)
            prompt = draw_prompt(words, dice.randint(*length), dice)
            try:
                await target.send(Job(prompt, dice.randint(*ANSWERS), 0.0, ignore_eos=True), reception)
            except RequestFailed as failed:
                failures.append(str(failed))
                return
            ends.append((time.monotonic(), reception.prompt_tokens if embeds else reception.generated_tokens))

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

    watching, load = asyncio.create_task(watch()), asyncio.create_task(_loaded(server, rate, seconds))
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
    total, free = await _at_rest(server) if server.task is Task.GENERATE else (None, None)
    return Steady(
        seconds=summary.seconds,
        sent=len(summary.outcomes),
        failed=sum(one.failure is not None for one in summary.outcomes),
        memory_middle=statistics.median(memory[third : 2 * third] or memory),
        memory_last=statistics.median(memory[-third:]),
        pages_total=total,
        pages_free=free,
    )


async def peak(server: Server, rate: float, seconds: float) -> Peak:
    return peak_of(await _loaded(server, rate, seconds), rate)


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


async def _loaded(server: Server, rate: float, seconds: float) -> LoadSummary:
    plan = LoadPlan(
        rate=rate, duration=seconds, prompt_words=WORDS[server.task], max_new_tokens=ANSWERS, ignore_eos=True
    )
    return await run_load(plan, target=server.target())


async def _at_rest(server: Server) -> tuple[int, int]:
    """Pages in all, and free ones, as soon as both are the same; or after a while."""
    end = time.monotonic() + REST
    while True:
        total, free = await server.metric(TOTAL, FREE)
        if total == free or time.monotonic() > end:
            return int(total), int(free)
        await asyncio.sleep(0.2)
