"""How long a connection stays, and how often a client may ask whether the server is still there."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from forwarder import Forwarder, forwarding
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from open_server import open_server
from scripted_runner import ScriptedRunner

PINGS = [
    ("grpc.keepalive_time_ms", 200),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
ASK = pb.GenerateRequest(text="In", max_new_tokens=2)


async def test_a_client_that_pings_while_nothing_comes_keeps_its_stream(model: Path, runner: ScriptedRunner) -> None:
    """gRPC's own defaults end such a connection after the third ping, with every stream on it: `too_many_pings`."""
    async with (
        open_server(model, runner) as server,
        grpc.aio.insecure_channel(server.grpc, options=PINGS) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        runner.gate.clear()
        call = stub.Generate(ASK)
        await server.until_inside(1)
        await asyncio.sleep(2.5)  # twelve pings: what is tried is gRPC's own clock
        runner.gate.set()
        assert [reply.finish_reason async for reply in call][-1] == pb.FINISH_REASON_LENGTH
        await asyncio.sleep(1.0)  # and with no call on it
        assert (await stub.ModelInfo(pb.ModelInfoRequest(), timeout=120)).max_context


async def test_a_connection_is_made_anew_after_its_age_and_no_call_is_lost(
    model: Path, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []
    forward = Forwarder.forward

    async def counted(self: Forwarder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(time.monotonic())
        await forward(self, reader, writer)

    monkeypatch.setattr(Forwarder, "forward", counted)
    async with (
        open_server(model, runner, max_connection_age=0.5) as server,
        forwarding(server.grpc) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        async with asyncio.timeout(120):
            while len(made) < 4:
                replies = [reply async for reply in stub.Generate(ASK, timeout=120)]
                assert replies[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert made[-1] - made[0] >= 3 * 0.5 * 0.9 - 0.1, "each stayed for its age, and up to 10 % more or less"
