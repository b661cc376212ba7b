"""Leaving under load: what a rolling update does to the clients of a Service."""

import asyncio
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession
from forwarder import forwarding
from headrace_server.client.load import LoadPlan, run_load
from headrace_server.drain import QUIET, drain
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, a_stub, open_server
from scripted_runner import ScriptedRunner, always
from tiny_tokenizer import tiny_tokenizer

RATE = 300.0  # requests per second: so many that a replica which stops after a fixed time cancels some
# Requests open at once. A machine that is too slow for the rate sends fewer a second then, and none of them piles up
# unread in front of a server: what this test is about is leaving, not a load beyond what the machine can carry.
OPEN = 64
AGE = QUIET + 1.0  # seconds; connections that existed at SIGTERM move to the other replica within this time
MARGIN = 6.0  # seconds that the load goes on at least when the replica has left, if the machine does not stand still


def a_runner() -> ScriptedRunner:
    return ScriptedRunner(always(tiny_tokenizer().encode("God created ").ids))


@pytest.mark.parametrize(
    ("door", "duration"),
    [
        pytest.param("grpc", AGE + QUIET + MARGIN, id="gRPC, whose connections stay until their age"),
        pytest.param("http", QUIET + MARGIN, id="HTTP, whose connections close with the next answer"),
    ],
)
async def test_a_replica_that_leaves_under_load_loses_no_request(model: Path, door: str, duration: float) -> None:
    async with (
        open_server(model, a_runner(), max_connection_age=AGE) as leaving,
        open_server(model, a_runner(), max_connection_age=AGE) as staying,
        forwarding(leaving.grpc if door == "grpc" else leaving.http.removeprefix("http://")) as service,
    ):
        where = {"target": service.address} if door == "grpc" else {"http": f"http://{service.address}"}
        plan = LoadPlan(
            rate=RATE, duration=duration, max_new_tokens=(1, 2), prompt_words=(1, 4), concurrency_limit=OPEN, **where
        )
        load = asyncio.create_task(run_load(plan))
        await asyncio.sleep(1.0)
        service.target = staying.grpc if door == "grpc" else staying.http.removeprefix("http://")
        began = time.monotonic()
        assert await drain(leaving.doors, leaving.engine, AGE, timeout=20)
        took = time.monotonic() - began
        outlasted = not load.done()
        summary = await load
        served = {
            server: server.sample("headrace_requests_received_total") - server.sample("headrace_requests_refused_total")
            for server in (leaving, staying)
        }

    assert summary.failures == {}
    assert sum(served.values()) == len(summary.outcomes) > 2 * RATE
    assert all(served.values())
    assert took >= QUIET
    assert outlasted, "the load was over before the replica had left, and shows nothing"


async def test_a_connection_kept_from_before_brings_no_request_to_a_replica_that_has_left(model: Path) -> None:
    async with (
        open_server(model, a_runner()) as leaving,
        open_server(model, a_runner()) as staying,
        forwarding(leaving.http.removeprefix("http://")) as service,
        ClientSession(f"http://{service.address}") as client,
    ):
        ask = {"model": NAME, "prompt": "In", "max_tokens": 1}
        async with client.post("/v1/completions", json=ask) as before:
            assert before.status == 200
        service.target = staying.http.removeprefix("http://")
        assert await drain(leaving.doors, leaving.engine, max_connection_age=30, timeout=20)
        async with client.post("/v1/completions", json=ask) as after:
            assert after.status == 200, await after.text()
        assert staying.sample("headrace_requests_received_total") == 1


async def test_a_quiet_replica_leaves_when_routing_has_had_time_to_learn_of_it(model: Path) -> None:
    async with open_server(model, a_runner()) as server:
        began = time.monotonic()
        assert await drain(server.doors, server.engine, max_connection_age=30, timeout=20)  # so it waited for no age
        assert time.monotonic() - began >= QUIET


async def test_a_drain_that_takes_too_long_says_so(model: Path) -> None:
    runner = a_runner()
    async with open_server(model, runner) as server, a_stub(server) as stub:
        runner.gate.clear()
        call = stub.Generate(pb.GenerateRequest(text="In"))
        await server.until_inside(1)
        assert not await drain(server.doors, server.engine, max_connection_age=30, timeout=QUIET + 0.3)
        call.cancel()
