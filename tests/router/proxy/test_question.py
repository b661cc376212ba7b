"""The question that Envoy asks, over real HTTP, while no replica is there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
from headrace_router.metrics import RouterMetrics
from headrace_router.pick.fleet import Fleet
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import Picker, Terms
from headrace_router.pick.rules import Rules
from headrace_router.proxy.bootstrap import ENDPOINT_HEADER, STREAM_HEADER
from headrace_router.proxy.line import listening
from headrace_router.proxy.question import Questions
from headrace_router.values import Endpoint, Found, Ports
from prometheus_client import CollectorRegistry

A = Endpoint("a", "a", "127.0.0.1", Ports(1, 2, 2))


@asynccontextmanager
async def asking(most_held: int) -> AsyncIterator[tuple[Picker, Questions, aiohttp.ClientSession]]:
    picker = Picker(Terms(Limits(most_held, 60.0), start_seconds=90.0))
    questions = Questions(
        Fleet({"": picker}), Rules((), ""), RouterMetrics(CollectorRegistry()), asyncio.get_running_loop().time
    )
    with TemporaryDirectory() as folder:
        socket = Path(folder) / "picker"
        async with listening(socket, questions.answer), envoy(socket) as session:
            yield picker, questions, session


def envoy(socket: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession("http://picker", connector=aiohttp.UnixConnector(str(socket)))


async def until_held(picker: Picker, requests: int) -> None:
    async with asyncio.timeout(300):
        while picker.held != requests:
            await asyncio.sleep(0.01)


async def asked(session: aiohttp.ClientSession, path: str, stream: str) -> aiohttp.ClientResponse:
    async with session.post(path, headers={STREAM_HEADER: stream}) as response:
        await response.read()
        return response


async def test_a_held_question_is_answered_when_a_replica_is_there() -> None:
    async with asking(most_held=1) as (picker, questions, session):
        held = asyncio.create_task(asked(session, "/grpc/headrace.v1.Inference/Generate", "one"))
        await until_held(picker, 1)
        picker.there_are(Found((A,)))
        questions.settle()
        assert (await held).headers[ENDPOINT_HEADER] == "127.0.0.1:1"


async def test_models_are_counted_without_any_rule_and_an_only_one_is_not() -> None:
    for model, counted in (("small", 1.0), ("", None)):
        registry = CollectorRegistry()
        picker = Picker(Terms(Limits(0, 60.0), start_seconds=90.0))
        questions = Questions(Fleet({model: picker}), Rules((), model), RouterMetrics(registry), lambda: 0.0)
        picker.there_are(Found((A,)))
        questions.answer("/http/v1/completions", {STREAM_HEADER: "one"}, b"{}")
        labels = {"model": model, "rule": "default"}
        assert registry.get_sample_value("headrace_router_model_requests_total", labels) == counted


async def test_a_question_that_is_taken_back_makes_room() -> None:
    async with asking(most_held=1) as (picker, _, session):
        held = asyncio.create_task(asked(session, "/http/v1/completions", "one"))
        await until_held(picker, 1)
        held.cancel()
        await until_held(picker, 0)


@pytest.mark.parametrize(("path", "status"), [("/http/v1/completions", 429), ("/http/health", 503)])
async def test_who_is_not_held_hears_it_in_openais_words(path: str, status: int) -> None:
    async with asking(most_held=0) as (_, _, session), session.post(path, headers={STREAM_HEADER: "one"}) as response:
        assert response.status == status
        assert response.headers["Retry-After"] == "90"
        assert "no replica is ready" in json.loads(await response.text())["error"]["message"]


async def test_who_is_not_held_hears_it_as_grpc_says_it() -> None:
    async with asking(most_held=0) as (_, _, session):
        refused = await asked(session, "/grpc/headrace.v1.Inference/Generate", "one")
        assert refused.headers["grpc-status"] == "8"
        assert refused.headers["grpc-retry-pushback-ms"] == "90000"
