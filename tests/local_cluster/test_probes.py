"""A probe that is asked again and again ends when its container does, whatever its answer does meanwhile."""

import asyncio

import aiohttp
from cluster.node.probes import Place, watch
from cluster.waiting import HANG

EXEC = {"exec": {"command": ["true"]}, "periodSeconds": 0.01}


async def test_a_probe_that_is_answered_while_it_is_cancelled_ends() -> None:
    asked, answered = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def run(command: list[str], timeout: float) -> int:
        asked.set()
        return int(await answered)

    async with aiohttp.ClientSession() as session:
        place = Place(session, "127.0.0.1", {}, run)
        probing = asyncio.create_task(watch(EXEC, place, lambda passed, why: None))
        await asked.wait()
        answered.set_result(0)
        await asyncio.sleep(0)  # the answer is there, and whoever waits for it has not gone on
        probing.cancel()
        ended, _ = await asyncio.wait([probing], timeout=HANG)
        probing.cancel()
    assert ended == {probing}
