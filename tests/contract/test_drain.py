"""The operator has a real server drain, over the call that both sides agreed on."""

import asyncio
import logging
from pathlib import Path

import aiohttp
import pytest
from checkpoints import write_checkpoint
from headrace_operator.act.drainer import Drainer
from headrace_operator.decide.actions import Drain
from headrace_operator.observe.scrape import Scraper
from served_process import PATIENCE, ServedProcess, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer

UID = "0b6f7c1e-pod"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory)
    save_tiny_tokenizer(directory)
    return directory


async def drained(server: ServedProcess, session: aiohttp.ClientSession) -> bool | None:
    url = f"http://{server.admin}/metrics"
    (reading,) = (await Scraper(session, PATIENCE, lambda: 0.0).scrape({"pod": url})).values()
    assert reading is not None
    assert reading.facts.device == "cpu"
    return reading.sample.drained


async def test_a_server_that_is_told_to_drain_says_when_it_is_done(checkpoint: Path, tmp_path: Path) -> None:
    async with (
        served(serve_command(checkpoint, "--admin-port=0"), tmp_path, POD_UID=UID) as server,
        aiohttp.ClientSession() as session,
        asyncio.timeout(PATIENCE),
    ):
        host, port = server.admin.split(":")
        drainer = Drainer(session, timeout=PATIENCE)
        assert await drained(server, session) is False
        await drainer.ask([Drain("chat-0", UID, host, int(port))])
        while not await drained(server, session):
            await asyncio.sleep(0.1)


async def test_a_call_that_is_refused_or_not_heard_is_logged_and_raises_nothing(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(serve_command(checkpoint, "--admin-port=0"), tmp_path, POD_UID=UID) as server,
        aiohttp.ClientSession() as session,
    ):
        host, port = server.admin.split(":")
        with caplog.at_level(logging.WARNING):
            await Drainer(session, PATIENCE).ask([Drain("chat-0", "another-uid", host, int(port))])
            await Drainer(session, PATIENCE).ask([Drain("chat-1", UID, host, 1)])
        assert await drained(server, session) is False
    assert "pod chat-0 does not drain: HTTP status 401" in caplog.text
    assert "pod chat-1 cannot be told to drain" in caplog.text
