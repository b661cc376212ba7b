"""Class, tenant and deadline of a request, as callers say them at both doors, and what the engine hears of it."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import openai
import pytest
from engines import until
from google.rpc import error_details_pb2, status_pb2
from headrace_server.errors import DeadlineExceeded, Overloaded, Refusal
from headrace_server.request import Finish, Priority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.status import trailers
from open_server import NAME, PAGES, OpenServer, SkippingClock, a_stub, open_server
from scripted_runner import ScriptedRunner

COMPLETION = {"model": NAME, "prompt": "In", "max_tokens": 4}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "In"}], "max_tokens": 4}
TENANT = "x-headrace-tenant"
EXPECTED = "x-envoy-expected-rq-timeout-ms"
SOON = 300.0  # seconds; a deadline that passes when the test says so


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every request that reaches the engine."""
    from headrace_server.engine.loop import Engine

    requests: list[Any] = []
    submit = Engine.submit

    def noted(engine: Engine, request: Any) -> Any:
        requests.append(request)
        return submit(engine, request)

    monkeypatch.setattr(Engine, "submit", noted)
    return requests


@asynccontextmanager
async def posted(
    server: OpenServer, body: dict[str, Any], headers: dict[str, str] | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with (
        aiohttp.ClientSession(server.http, headers=headers) as session,
        session.post(path, json=body) as response,
    ):
        yield response


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        pytest.param({}, Priority.STANDARD, id="nothing said"),
        pytest.param({"priority": "interactive"}, Priority.INTERACTIVE, id="interactive"),
        pytest.param({"priority": "standard"}, Priority.STANDARD, id="standard"),
        pytest.param({"priority": "batch"}, Priority.BATCH, id="batch"),
        pytest.param({"service_tier": "flex"}, Priority.BATCH, id="OpenAI's flex"),
        pytest.param({"service_tier": "auto"}, Priority.STANDARD, id="another tier of OpenAI's"),
        pytest.param({"service_tier": "flex", "priority": "interactive"}, Priority.INTERACTIVE, id="the name wins"),
    ],
)
async def test_the_class_of_a_request_is_its_priority(
    model: Path, runner: ScriptedRunner, submitted: list[Any], fields: dict[str, Any], priority: Priority
) -> None:
    async with open_server(model, runner) as server:
        for body in (COMPLETION, CHAT):
            async with posted(server, body | fields) as response:
                assert response.status == 200
    assert [request.priority for request in submitted] == [priority, priority]


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (pb.PRIORITY_UNSPECIFIED, Priority.STANDARD),
        (pb.PRIORITY_INTERACTIVE, Priority.INTERACTIVE),
        (pb.PRIORITY_STANDARD, Priority.STANDARD),
        (pb.PRIORITY_BATCH, Priority.BATCH),
    ],
)
async def test_the_class_of_a_call_is_its_priority(
    model: Path, runner: ScriptedRunner, submitted: list[Any], priority: pb.Priority, expected: Priority
) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        _ = [reply async for reply in stub.Generate(pb.GenerateRequest(text="In", priority=priority))]
    assert [(request.priority, request.deadline) for request in submitted] == [(expected, None)]


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        pytest.param({"priority": "urgent"}, {}, "priority", id="no such class"),
        pytest.param({"priority": 1}, {}, "priority", id="a number"),
        pytest.param({"timeout": 0}, {}, "timeout", id="no time at all"),
        pytest.param({"timeout": -1}, {}, "timeout", id="less than no time"),
        pytest.param({"timeout": "5"}, {}, "timeout", id="time in words"),
        pytest.param({}, {EXPECTED: "1.5"}, EXPECTED, id="half a millisecond"),
        pytest.param({}, {EXPECTED: "-1"}, EXPECTED, id="negative milliseconds"),
        pytest.param({}, {TENANT: "t" * 129}, TENANT, id="a long tenant"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_name(
    model: Path, runner: ScriptedRunner, body: dict[str, Any], headers: dict[str, str], field: str
) -> None:
    async with (
        open_server(model, runner, trust_tenant_header=True) as server,
        posted(server, COMPLETION | body, headers) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["param"] == field


async def test_a_class_that_grpc_does_not_know_is_refused(model: Path, runner: ScriptedRunner) -> None:
    unknown = pb.GenerateRequest.FromString(pb.GenerateRequest(text="In").SerializeToString() + b"\xb0\x01\x63")
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="priority: is 99"):
            _ = [reply async for reply in stub.Generate(unknown)]


@pytest.mark.parametrize(("trusted", "tenant"), [(True, "team-a"), (False, "")])
async def test_the_tenant_is_believed_only_where_a_gateway_vouches_for_it(
    model: Path, runner: ScriptedRunner, submitted: list[Any], trusted: bool, tenant: str
) -> None:
    async with (
        open_server(model, runner, trust_tenant_header=trusted) as server,
        a_stub(server) as stub,
        posted(server, COMPLETION, {TENANT: "team-a"}) as response,
    ):
        assert response.status == 200
        _ = [reply async for reply in stub.Generate(pb.GenerateRequest(text="In"), metadata=((TENANT, "team-a"),))]
    assert [request.tenant for request in submitted] == [tenant, tenant]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        pytest.param(({"timeout": 7.5}, {}), 7.5, id="field"),
        pytest.param(({}, {EXPECTED: "9000"}), 9.0, id="header"),
        pytest.param(({"timeout": 7.5}, {EXPECTED: "9000"}), 7.5, id="the field is earlier"),
        pytest.param(({"timeout": 10}, {EXPECTED: "9000"}), 9.0, id="the header is earlier"),
        pytest.param(({"timeout": 10}, {EXPECTED: "0"}), 10.0, id="a proxy without a limit"),
        pytest.param(({}, {"x-stainless-timeout": "1"}), math.inf, id="a limit of silence is no deadline"),
    ],
)
async def test_the_earliest_deadline_holds(
    model: Path,
    runner: ScriptedRunner,
    submitted: list[Any],
    said: tuple[dict[str, Any], dict[str, str]],
    seconds: float,
) -> None:
    body, headers = said
    async with open_server(model, runner) as server, posted(server, COMPLETION | body, headers) as response:
        assert response.status == 200
    [request] = submitted
    deadline = math.inf if request.deadline is None else request.deadline
    assert deadline - request.arrived_at == pytest.approx(seconds)


async def test_the_deadline_of_a_call_is_grpcs_own(model: Path, runner: ScriptedRunner, submitted: list[Any]) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        _ = [reply async for reply in stub.Generate(pb.GenerateRequest(text="In"), timeout=1000)]
    [request] = submitted
    assert 900 < request.deadline - request.arrived_at <= 1010  # gRPC has three digits on the wire, and rounds up


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("body", [COMPLETION, CHAT], ids=["completion", "chat"])
async def test_too_late_before_the_first_token_is_504_and_never_a_length(
    model: Path, runner: ScriptedRunner, body: dict[str, Any], stream: bool
) -> None:
    clock = SkippingClock()
    async with open_server(model, runner, clock=clock, max_running=1) as server:
        runner.gate.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(status_of(server, COMPLETION))
            await server.until_inside(1)
            late = group.create_task(status_of(server, body | {"timeout": SOON, "stream": stream}))
            await server.until_inside(2)
            clock.skipped = SOON
            runner.gate.set()
        status, answer = late.result()
        assert first.result()[0] == 200
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        outcomes = {one: server.sample("headrace_requests_finished_total", outcome=one) for one in Finish}
    error = json.loads(answer)["error"]
    assert (status, error["type"]) == (504, "timeout_error")
    assert "the deadline passed while the request waited" in error["message"]
    assert {one: count for one, count in outcomes.items() if count} == {Finish.LENGTH: 1, Finish.EXPIRED: 1}


async def status_of(server: OpenServer, body: dict[str, Any]) -> tuple[int, str]:
    async with posted(server, body) as response:
        return response.status, await response.text()


async def test_too_late_in_the_middle_of_a_stream_is_an_event_and_no_end(model: Path, runner: ScriptedRunner) -> None:
    clock, runner.pause_at = SkippingClock(), 9
    async with (
        open_server(model, runner, clock=clock) as server,
        posted(server, COMPLETION | {"max_tokens": 60, "stream": True, "timeout": SOON}) as response,
    ):
        first = await response.content.readuntil(b"\n\n")
        await until(lambda: not runner.gate.is_set())
        clock.skipped = SOON
        runner.gate.set()
        rest = await response.content.read()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
    events = (first + rest).decode().split("\n\n")
    assert response.status == 200
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert (error["type"], events[-1]) == ("timeout_error", "")
    assert "data: [DONE]" not in events
    reasons = [json.loads(event.removeprefix("data: "))["choices"][0]["finish_reason"] for event in events[:-2]]
    assert set(reasons) == {None}


async def test_openais_own_client_gets_a_timeout_as_a_status(model: Path, runner: ScriptedRunner) -> None:
    clock = SkippingClock()
    async with (
        open_server(model, runner, clock=clock) as server,
        openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client,
    ):
        runner.gate.clear()
        asking = asyncio.create_task(client.completions.create(model=NAME, prompt="In", extra_body={"timeout": SOON}))
        await server.until_inside(1)
        clock.skipped = SOON
        runner.gate.set()
        with pytest.raises(openai.InternalServerError, match="the deadline passed") as late:
            await asking
    assert late.value.status_code == 504


def test_a_refusal_says_when_to_come_back_in_both_of_grpcs_ways() -> None:
    found = dict(trailers(Overloaded("full", retry_after=1.2345, reason=Refusal.TENANT_LIMIT)))
    assert found["grpc-retry-pushback-ms"] == "1235"
    status = status_pb2.Status.FromString(found["grpc-status-details-bin"])
    assert (status.code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "full")
    [when] = _retry_infos(status)
    assert when.retry_delay.ToMilliseconds() == 1235


def test_other_errors_name_no_time_to_come_back() -> None:
    found = dict(trailers(DeadlineExceeded("late", started=True)))
    assert "grpc-retry-pushback-ms" not in found
    assert _retry_infos(status_pb2.Status.FromString(found["grpc-status-details-bin"])) == []


def _retry_infos(status: status_pb2.Status) -> list[error_details_pb2.RetryInfo]:
    found = []
    for detail in status.details:
        when = error_details_pb2.RetryInfo()
        if detail.Unpack(when):
            found.append(when)
    return found


async def test_a_full_server_says_so_over_grpc_with_the_details_on_the_wire(
    model: Path, runner: ScriptedRunner
) -> None:
    async with open_server(model, runner, max_running=1, max_waiting=1) as server, a_stub(server) as stub:
        runner.gate.clear()
        calls = []
        for inside in (1, 2):
            call = stub.Generate(pb.GenerateRequest(text="In"))
            calls.append(asyncio.create_task(call.read()))
            await server.until_inside(inside)
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await stub.Generate(pb.GenerateRequest(text="In")).read()
        runner.gate.set()
        await asyncio.gather(*calls)
    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found = dict(full.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(found["grpc-status-details-bin"])
    assert status.message == full.value.details()
    assert int(found["grpc-retry-pushback-ms"]) >= 1
