"""A caller who hangs up frees what it held within two steps: at each door, streaming or not, queued or running."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from headrace_server.request import Finish
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, PAGES, PATIENCE, OpenServer, a_stub, open_server
from scripted_runner import ScriptedRunner, always

TOKENS = 40
Ask = Callable[[OpenServer], Awaitable[None]]


async def over_grpc(server: OpenServer) -> None:
    async with a_stub(server) as stub:
        async for _ in stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=TOKENS)):
            pass


async def over_http(server: OpenServer) -> None:
    await _post(server, stream=False)


async def over_sse(server: OpenServer) -> None:
    await _post(server, stream=True)


async def _post(server: OpenServer, *, stream: bool) -> None:
    body = {"model": NAME, "prompt": "In", "max_tokens": TOKENS, "stream": stream}
    async with aiohttp.ClientSession(server.http) as session, session.post("/v1/completions", json=body) as response:
        await response.read()


DOORS = pytest.mark.parametrize("ask", [over_grpc, over_http, over_sse])


@pytest.fixture
def counting() -> Iterator[ScriptedRunner]:
    runner = ScriptedRunner(always([5, 6, 7]))
    yield runner
    runner.gate.set()


@DOORS
@pytest.mark.parametrize("pause_at", [1, 10], ids=["in its first step", "half way"])
async def test_a_running_request_is_gone_within_two_steps(
    model: Path, counting: ScriptedRunner, ask: Ask, pause_at: int
) -> None:
    async with open_server(model, counting) as server:
        counting.pause_at = pause_at
        asking = asyncio.ensure_future(ask(server))
        await until(lambda: counting.launched >= pause_at)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: server.doors.arrivals.inside == 0)  # the door has heard of it
        before = counting.launched
        counting.gate.set()
        await server.until_inside(0)
        await until(lambda: server.engine.load().kv_pages_free == PAGES)
        assert counting.launched - before <= 2
        assert server.sample("headrace_requests_finished_total", outcome=Finish.CANCELLED) == 1


@DOORS
async def test_a_queued_request_is_gone_at_once_and_never_computed(
    model: Path, counting: ScriptedRunner, ask: Ask
) -> None:
    async with open_server(model, counting, max_running=1) as server:
        counting.gate.clear()
        running = asyncio.ensure_future(over_http(server))
        await until(lambda: server.engine.load().running == 1)
        asking = asyncio.ensure_future(ask(server))
        await server.until_inside(2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: server.engine.load().waiting == 0)  # while the step of the other still runs
        counting.gate.set()
        await running
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        computed = server.sample("headrace_generation_tokens_total")
        assert computed == TOKENS
        assert server.sample("headrace_requests_finished_total", outcome=Finish.CANCELLED) == 1


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():
            await asyncio.sleep(0.002)
