"""All pods are asked at once; one that hangs, fails or talks nonsense costs its own sample only."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from headrace_operator.observe.exposition import NEEDED
from headrace_operator.observe.scrape import Reading, Scraper

GOOD = "".join(f"{name} 1.0\n" for name in NEEDED)
AWAITED = 300.0  # s; nobody that answers is given up
GIVEN_UP = 0.2  # s


@pytest.fixture
def over() -> asyncio.Event:
    """From now on the pod that hangs answers."""
    return asyncio.Event()


@pytest.fixture
async def pods(over: asyncio.Event) -> AsyncIterator[str]:
    """One server whose paths behave like different pods."""

    async def good(_: web.Request) -> web.Response:
        return web.Response(text=GOOD)

    async def hangs(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response(text=GOOD)

    async def fails(_: web.Request) -> web.Response:
        return web.Response(status=503, text=GOOD)

    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="<html>{{{")

    async def binary(_: web.Request) -> web.Response:
        return web.Response(body=b"\xff\xfe", content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get(f"/{call.__name__}", call) for call in (good, hangs, fails, nonsense, binary)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    over.set()
    await runner.cleanup()


async def until_good(scraper: Scraper, urls: dict[str, str]) -> dict[str, Reading | None]:
    """The first round in which the good pod has its sample: a machine that pauses gives up on it, too."""
    async with asyncio.timeout(AWAITED / 2):
        while (samples := await scraper.scrape(urls))["good"] is None:
            await asyncio.sleep(0.01)
    return samples


async def test_one_bad_pod_costs_its_own_sample_and_not_the_round(pods: str) -> None:
    urls = {name: f"{pods}/{name}" for name in ("good", "hangs", "fails", "nonsense")}
    urls["gone"] = "http://127.0.0.1:1/metrics"
    async with aiohttp.ClientSession() as session:
        scraper = Scraper(session, GIVEN_UP, lambda: 42.0)
        samples = await until_good(scraper, urls)  # each round ends although a pod never answers
        await scraper.close()
    assert {name for name, sample in samples.items() if sample} == {"good"}
    assert set(samples) == set(urls)
    assert samples["good"] is not None
    assert samples["good"].sample.at == 42.0


async def test_a_pod_that_hangs_is_waited_for_once(pods: str, over: asyncio.Event) -> None:
    urls = {name: f"{pods}/{name}" for name in ("good", "hangs")}
    async with aiohttp.ClientSession() as session:
        scraper = Scraper(session, GIVEN_UP, lambda: 42.0)
        await scraper.scrape(urls)
        scraper._timeout = aiohttp.ClientTimeout(total=AWAITED)  # so long would a round that waits for it take
        samples = await until_good(scraper, urls)
        assert samples["hangs"] is None
        over.set()
        async with asyncio.timeout(AWAITED):
            while (await scraper.scrape(urls))["hangs"] is None:
                await asyncio.sleep(0.01)
        again = await scraper.scrape(urls)
        assert all(again.values()), "who has answered is waited for again"
        await scraper.close()


async def test_bytes_that_are_no_text_are_no_sample(pods: str) -> None:
    async with aiohttp.ClientSession() as session:
        assert await Scraper(session, AWAITED, lambda: 42.0).scrape({"pod": f"{pods}/binary"}) == {"pod": None}
