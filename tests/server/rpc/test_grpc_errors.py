"""What a gRPC client can read from a refusal without its message, and how much a call may carry."""

import asyncio
from pathlib import Path

import grpc
import pytest
from black_hole import black_hole
from grpc_errors import fields_in, reason_in, retry_seconds_in, status_in
from headrace_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    NotNow,
    Overloaded,
    PermissionDenied,
    Refusal,
    ServerError,
    Unauthenticated,
    UnknownModel,
)
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.admin import AdminToken
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.calls import Calls, Served
from headrace_server.rpc.grpc_server import LARGEST_MESSAGE, LARGEST_METADATA, GrpcServices, start_grpc_server
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc, oip_pb2_grpc
from headrace_server.rpc.service import InferenceService
from headrace_server.rpc.status import LONGEST_MESSAGE, STATUS, rpc_status, trailers
from open_server import CONTEXT, HOST, PAGES, a_stub, open_server
from prometheus_client import CollectorRegistry
from scripted_runner import ScriptedRunner

DETAILS = [
    pytest.param(InvalidRequest("top_k", "is -1"), "INVALID", ["top_k"], None, id="invalid"),
    pytest.param(UnknownModel("model", "is not served"), "UNKNOWN_MODEL", ["model"], None, id="unknown model"),
    pytest.param(Unauthenticated("no key"), "UNAUTHENTICATED", [], None, id="nobody known"),
    pytest.param(PermissionDenied("not yours"), "FORBIDDEN", [], None, id="not theirs"),
    pytest.param(Overloaded("full", 2.5), "OVERLOADED", [], 2.5, id="full"),
    pytest.param(Overloaded("much", 1.25, Refusal.TENANT_LIMIT), "TENANT_LIMIT", [], 1.25, id="used up"),
    pytest.param(Overloaded("late", 9.0, Refusal.LATE), "LATE", [], 9.0, id="would be late"),
    pytest.param(DeadlineExceeded("late", started=True), "DEADLINE_EXCEEDED", [], None, id="late"),
    pytest.param(Draining("leaving"), "UNAVAILABLE", [], 1.0, id="leaving"),
    pytest.param(NotNow("loading"), "FAILED_PRECONDITION", [], None, id="not now"),
    pytest.param(EngineFailed("broke"), "INTERNAL", [], None, id="broken"),
    pytest.param(NotNow("not ready"), "FAILED_PRECONDITION", [], None, id="not now"),
]


def test_every_error_is_in_the_table_below() -> None:
    assert {type(param.values[0]) for param in DETAILS} == set(STATUS)


@pytest.mark.parametrize(("error", "reason", "fields", "retry"), DETAILS)
def test_details_name_reason_fields_and_when_to_come_back(
    error: ServerError, reason: str, fields: list[str], retry: float | None
) -> None:
    status = rpc_status(error)
    assert (reason_in(status), fields_in(status), retry_seconds_in(status)) == (reason, fields, retry)
    assert (status.code, status.message) == (STATUS[type(error)].grpc.value[0], str(error))
    plain = {key: value for key, value in trailers(error) if isinstance(value, str)}
    assert plain.get("headrace-field") == (fields[0] if fields else None)
    pushback = plain.get("grpc-retry-pushback-ms")
    assert pushback == (f"{(retry or 0) * 1000:.0f}" if isinstance(error, Overloaded) else None)


async def test_a_refusal_carries_its_details_over_the_wire(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=CONTEXT)).read()
    status = status_in(failed.value)
    assert (status.code, status.message) == (failed.value.code().value[0], failed.value.details())
    assert fields_in(status) == ["max_new_tokens"]


@pytest.mark.parametrize("letter", ["a", "é", "😀"], ids=["one byte", "two bytes", "four bytes"])
async def test_a_message_that_repeats_what_it_refuses_still_arrives(
    model: Path, runner: ScriptedRunner, letter: str
) -> None:
    """Longer trailers than a client allows would turn any status into RESOURCE_EXHAUSTED, without details."""
    error = InvalidRequest("regex", letter * 30_000)
    assert len(rpc_status(error).message.encode()) <= LONGEST_MESSAGE + len(" ...")
    async with open_server(model, runner) as server, a_stub(server) as stub:
        server.doors.readiness.open(Refusing(error))  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Tokenize(pb.TokenizeRequest(text="In"))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_in(status_in(failed.value)) == ["regex"]


class Refusing:
    def __init__(self, error: ServerError) -> None:
        self._error = error

    def tell(self, *_: object) -> None:
        pass

    async def tokenise(self, _: str) -> tuple[int, ...]:
        raise self._error


async def test_a_message_too_large_is_refused_by_its_size_and_the_server_goes_on(
    model: Path, runner: ScriptedRunner
) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match=str(LARGEST_MESSAGE)) as failed:
            await stub.Generate(pb.GenerateRequest(text="a" * (LARGEST_MESSAGE + 1))).read()
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Tokenize(pb.TokenizeRequest(text="In"))).tokens.ids


async def test_metadata_too_large_is_refused_and_the_server_goes_on(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="metadata") as failed:
            await stub.Tokenize(pb.TokenizeRequest(text="In"), metadata=(("x-large", "a" * LARGEST_METADATA),))
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        fits = (("x-large", "a" * (LARGEST_METADATA // 2)),)
        assert (await stub.Tokenize(pb.TokenizeRequest(text="In"), metadata=fits)).tokens.ids


async def test_a_client_that_vanishes_without_a_word_frees_what_it_held(model: Path, runner: ScriptedRunner) -> None:
    """No FIN and no RST, while the server waits for a step and has nothing to write: only a ping can tell."""
    async with open_server(model, runner) as server:
        doors, metrics = server.doors, ServerMetrics(CollectorRegistry())
        calls = Calls(Served("tiny", "cpu", "float32"), doors.readiness, metrics, doors.arrivals, Callers(False))
        services = GrpcServices(
            InferenceService(calls, doors.drain_call, AdminToken(None)), oip_pb2_grpc.GRPCInferenceServiceServicer()
        )
        pinging = await start_grpc_server(services, HOST, 0, max_connection_age=600, keepalive=0.3)
        async with black_hole(f"{HOST}:{pinging.port}") as hole, grpc.aio.insecure_channel(hole.address) as channel:
            runner.gate.clear()
            stub = inference_pb2_grpc.InferenceStub(channel)
            call = stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=30))
            asking = asyncio.ensure_future(call.read())
            await server.until_running(1)
            hole.swallows = True
            async with asyncio.timeout(120):
                while doors.arrivals.inside:
                    await asyncio.sleep(0.02)
            runner.gate.set()
            await server.until_inside(0)
            assert server.engine.load().kv_pages_free == PAGES
            asking.cancel()
            call.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await pinging.server.stop(0)
