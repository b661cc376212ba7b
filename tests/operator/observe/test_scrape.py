"""All pods are asked at once; one that hangs, fails or talks nonsense costs its own sample only."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from headrace_operator.observe.exposition import NEEDED
from headrace_operator.observe.scrape import Scraper

GOOD = "".join(f"{name} 1.0\n" for name in NEEDED)
TIMEOUT = 0.2  # s


@pytest.fixture
async def pods() -> AsyncIterator[str]:
    """One server whose paths behave like different pods."""

    over = asyncio.Event()

    async def good(_: web.Request) -> web.Response:
        return web.Response(text=GOOD)

    async def hangs(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response(text=GOOD)

    async def fails(_: web.Request) -> web.Response:
        return web.Response(status=503, text=GOOD)

    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="<html>{{{")

    app = web.Application()
    app.add_routes([web.get(f"/{call.__name__}", call) for call in (good, hangs, fails, nonsense)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    over.set()
    await runner.cleanup()


async def test_one_bad_pod_costs_its_own_sample_and_not_the_round(pods: str) -> None:
    urls = {name: f"{pods}/{name}" for name in ("good", "hangs", "fails", "nonsense")}
    urls["gone"] = "http://127.0.0.1:1/metrics"
    async with aiohttp.ClientSession() as session:
        samples = await Scraper(session, TIMEOUT, lambda: 42.0).scrape(urls)  # ends although a pod never answers
    assert {name for name, sample in samples.items() if sample} == {"good"}
    assert set(samples) == set(urls)
    assert samples["good"] is not None
    assert samples["good"].sample.at == 42.0
