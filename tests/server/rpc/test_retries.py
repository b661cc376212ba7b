"""Requests that come again, as real clients send them: each said so at the moment in which it was demand again."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import openai
import pytest
from headrace_server.request import Priority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from open_server import NAME, OpenServer, open_server
from scripted_runner import ScriptedRunner

POLICY = {
    "methodConfig": [
        {
            "name": [{"service": "headrace.v1.Inference"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


@asynccontextmanager
async def a_full_server(model: Path, runner: ScriptedRunner) -> AsyncIterator[OpenServer]:
    """One request runs, one waits, and nobody goes on until `runner.gate` opens."""
    async with (
        open_server(model, runner, max_running=1, max_waiting=1) as server,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        runner.gate.clear()
        stub = inference_pb2_grpc.InferenceStub(channel)
        running = stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=2))
        await server.until_running(1)
        waiting = stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=2))
        await server.until_inside(2)
        yield server
        running.cancel()
        waiting.cancel()


async def let_in_after_one_refusal(server: OpenServer, runner: ScriptedRunner) -> None:
    async with asyncio.timeout(120):
        while not server.sample("headrace_requests_refused_total", reason="overloaded"):
            await asyncio.sleep(0.01)
    assert retried(server) == 0  # the first try is none
    runner.gate.set()


def retried(server: OpenServer, priority: Priority = Priority.STANDARD) -> float:
    return server.sample("headrace_requests_retried_by_class_total", **{"class": priority})


async def test_openais_library_says_that_it_asks_again(model: Path, runner: ScriptedRunner) -> None:
    async with (
        a_full_server(model, runner) as server,
        openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=5) as client,
    ):
        asking = asyncio.create_task(client.completions.create(model=NAME, prompt="In", max_tokens=2))
        await let_in_after_one_refusal(server, runner)
        await asking
        assert retried(server) == 1
        assert server.sample("headrace_requests_received_total") == 3  # with the two that fill it


async def test_grpcs_own_retries_say_so(model: Path, runner: ScriptedRunner) -> None:
    async with (
        a_full_server(model, runner) as server,
        grpc.aio.insecure_channel(server.grpc, options=[("grpc.service_config", json.dumps(POLICY))]) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        call = stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=2))
        asking = asyncio.create_task(_all(call))
        await let_in_after_one_refusal(server, runner)
        await asking
        assert retried(server) == 1


async def test_a_second_try_that_is_refused_is_counted_as_well(model: Path, runner: ScriptedRunner) -> None:
    """For its refusal is counted once more."""
    async with (
        a_full_server(model, runner) as server,
        openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=1) as client,
    ):
        with pytest.raises(openai.RateLimitError):
            await client.completions.create(model=NAME, prompt="In", max_tokens=2)
        assert server.sample("headrace_requests_refused_by_class_total", **{"class": Priority.STANDARD}) == 2
        assert retried(server) == 1
        runner.gate.set()


async def _all(call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateReply]) -> None:
    async for _ in call:
        pass
