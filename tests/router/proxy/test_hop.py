"""A stream whose client wants to hear how long it waits: comments while no replica is there, then what it says."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from certificates import Authority
from headrace_router.metrics import RouterMetrics
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import Picker, Terms
from headrace_router.pick.rules import Rules
from headrace_router.proxy.bootstrap import HOP_HEADER, PROGRESS_HEADER, STREAM_HEADER
from headrace_router.proxy.hop import Hop
from headrace_router.proxy.question import Questions
from headrace_router.values import Endpoint, Found, Ports, Reply, Secured, Through
from prometheus_client import CollectorRegistry
from replicas import HOST, Replica, running, said_by

NAME = "scripture.default.svc"


@dataclass(slots=True)
class Waiting:
    replica: Replica
    picker: Picker
    questions: Questions
    session: aiohttp.ClientSession
    url: str

    def arrives(self) -> None:
        """The replica is ready now."""
        ports = Ports(self.replica.grpc_port, self.replica.http_port, self.replica.http_port)
        self.picker.there_are(Found((Endpoint("a", "a", HOST, ports),)))
        self.questions.settle()

    def ask(self) -> "asyncio.Task[tuple[str, str]]":
        """Its first line, and all that follows."""
        return asyncio.create_task(self._ask())

    async def _ask(self) -> tuple[str, str]:
        headers = {HOP_HEADER: f"{Through.PROGRESS} stream "}
        async with self.session.post(self.url, json={"prompt": "x", "stream": True}, headers=headers) as response:
            first = (await response.content.readline()).decode()
            return first, await said_by(response, self.replica)

    async def until_held(self, requests: int) -> None:
        async with asyncio.timeout(300):
            while self.picker.held != requests:
                await asyncio.sleep(0.01)


@pytest.fixture(params=[pytest.param(False, id="plain text"), pytest.param(True, id="TLS")])
async def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Waiting]:
    async with AsyncExitStack() as stack:
        replica, authority = Replica("a"), Authority(tmp_path)
        secured = Secured(ssl.create_default_context(cafile=authority.certificate), NAME) if request.param else None
        await stack.enter_async_context(running(replica, authority.sign("a", NAME) if secured else None))
        picker = Picker(Terms(Limits(1, 60.0), start_seconds=90.0))
        fleet, rules = Fleet({"": picker}), Rules((), "")
        metrics, clock = RouterMetrics(CollectorRegistry()), asyncio.get_running_loop().time
        questions = Questions(fleet, rules, metrics, clock)
        hop = Hop(questions, fleet, None, metrics, clock, secured=lambda _: secured)
        await stack.enter_async_context(hop.listening(tmp_path / "hop.sock"))
        connector = aiohttp.UnixConnector(str(tmp_path / "hop.sock"))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Waiting(replica, picker, questions, session, "http://hop/v1/completions")


async def test_comments_come_before_a_replica_does(waiting: Waiting) -> None:
    call = waiting.ask()
    await waiting.until_held(1)
    waiting.arrives()
    first, rest = await call
    assert re.fullmatch(r": waiting for a replica, \d+ s\n", first)
    assert [line for line in rest.splitlines() if line and not line.startswith(":")] == ["data: a"] * 3
    assert not waiting.picker.busy.under_way


async def test_without_a_wait_no_comment_is_made(waiting: Waiting) -> None:
    waiting.arrives()
    assert await waiting.ask() == ("data: a\n", "\n" + "data: a\n\n" * 2)


async def test_a_body_of_any_size_that_a_replica_takes_comes_through(waiting: Waiting) -> None:
    waiting.arrives()
    headers = {HOP_HEADER: f"{Through.PROGRESS} stream "}
    body = {"prompt": "x" * (2 << 20), "stream": True}
    async with waiting.session.post(waiting.url, json=body, headers=headers) as response:
        assert response.status == 200
        assert (await response.text()).count("data: a") == 3


async def test_without_a_wait_a_refusal_is_a_status(waiting: Waiting) -> None:
    waiting.arrives()
    assert not list(waiting.picker.drain())
    headers = {HOP_HEADER: f"{Through.PROGRESS} stream "}
    async with waiting.session.post(waiting.url, json={"prompt": "x"}, headers=headers) as response:
        assert response.status == 503


async def test_a_client_that_leaves_makes_room(waiting: Waiting) -> None:
    call = waiting.ask()
    await waiting.until_held(1)
    call.cancel()
    await waiting.until_held(0)


async def test_a_refusal_is_an_event_of_the_stream(waiting: Waiting) -> None:
    call = waiting.ask()
    await waiting.until_held(1)
    waiting.questions.tell(waiting.picker.drain())
    error = json.loads((await call)[1].partition("data: ")[2])["error"]
    assert error["code"] == "service_unavailable"


async def test_a_replica_that_dies_in_between_is_an_event_of_the_stream(waiting: Waiting) -> None:
    waiting.replica.dies_after = 2
    call = waiting.ask()
    await waiting.until_held(1)
    waiting.arrives()
    said = (await call)[1]
    assert said.count("data: a\n\n") == 2
    assert "ask again" in json.loads(said.rpartition("data: ")[2])["error"]["message"]


@pytest.mark.parametrize(
    ("body", "progress", "comes_through"),
    [
        ({"prompt": "x", "stream": True}, "comments", True),
        ({"prompt": "x", "stream": True}, "", False),
        ({"prompt": "x"}, "comments", False),
    ],
)
async def test_only_who_asks_for_comments_gets_them(
    waiting: Waiting, body: dict[str, object], progress: str, comes_through: bool
) -> None:
    headers = {STREAM_HEADER: "one", PROGRESS_HEADER: progress}
    reply = waiting.questions.answer("/http/v1/completions", headers, json.dumps(body).encode())
    if comes_through:
        assert isinstance(reply, Reply)
        assert reply.headers == {HOP_HEADER: "Progress one "}
        return
    assert not isinstance(reply, Reply), "it is held, as others are"
    held = asyncio.ensure_future(reply)
    await asyncio.sleep(0)
    waiting.arrives()
    assert HOP_HEADER not in (await held).headers
