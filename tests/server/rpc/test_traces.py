"""Traces, as a collector receives them: a real OTLP receiver over gRPC, in front of it both doors."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from embed_server import FACTS
from headrace_server.came_with import CameWith
from headrace_server.config import TelemetryConfig
from headrace_server.embedding import EmbedAsk, Embedded
from headrace_server.errors import Overloaded
from headrace_server.rpc.pb import inference_pb2 as pb
from open_server import NAME, OpenServer, a_stub, open_server
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from scripted_runner import ScriptedRunner

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
STAGES = ["queue", "prefill", "decode", "detokenise"]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    async def Export(self, request: Any, _: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            told = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            self.services.add(told["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def requests(self) -> list[Span]:
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent_span_id == parent.span_id]


@dataclass(frozen=True, slots=True)
class Traced:
    server: OpenServer
    collector: Collector

    async def sent(self) -> Collector:
        """Once everything that was traced has arrived."""
        await self.server.doors.readiness.close()
        return self.collector


@asynccontextmanager
async def traced(model: Path, runner: ScriptedRunner, share: float = 1.0) -> AsyncIterator[Traced]:
    collector, receiver = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    await receiver.start()
    told = TelemetryConfig(otlp_endpoint=f"http://127.0.0.1:{port}", trace_share=share)
    try:
        async with open_server(model, runner, differs={"telemetry": told}) as server:
            yield Traced(server, collector)
    finally:
        await receiver.stop(None)


def attributes(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in span.attributes:
        kind = entry.value.WhichOneof("value")
        value = getattr(entry.value, kind)
        found[entry.key] = [each.string_value for each in value.values] if kind == "array_value" else value
    return found


async def complete(server: OpenServer, traceparent: str | None = SAMPLED, **body: Any) -> int:
    headers = {"tracestate": "vendor=1"} | ({"traceparent": traceparent} if traceparent else {})
    document = {"model": NAME, "prompt": "In the", "max_tokens": 5, "temperature": 0.5, "seed": 3} | body
    url = f"{server.http}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=document, headers=headers) as response:
        await response.read()
        return response.status


async def test_a_request_over_http_is_a_child_of_its_caller(model: Path, runner: ScriptedRunner) -> None:
    before = time.time_ns()
    async with traced(model, runner) as both:
        assert await complete(both.server) == 200
        collector = await both.sent()
    after = time.time_ns()

    assert collector.services == {"headrace-server"}
    (span,) = collector.requests
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (f"text_completion {NAME}", TRACE, CALLER)
    assert span.trace_state == "vendor=1"
    told = attributes(span)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.provider.name"] == "headrace"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == NAME
    assert (told["gen_ai.usage.output_tokens"], told["gen_ai.request.max_tokens"]) == (5, 5)
    assert told["gen_ai.usage.input_tokens"] > 1
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.seed"]) == (0.5, 3)
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert "error.type" not in told

    stages = sorted(collector.children(span), key=lambda stage: stage.start_time_unix_nano)
    assert [stage.name for stage in stages] == STAGES
    queue, prefill, decode, detokenise = stages
    assert before <= span.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano < decode.end_time_unix_nano
    assert decode.end_time_unix_nano <= detokenise.end_time_unix_nano == span.end_time_unix_nano <= after
    assert 0 < attributes(detokenise)["headrace.busy_seconds"] < 1


async def test_the_context_comes_in_grpc_metadata_likewise(model: Path, runner: ScriptedRunner) -> None:
    async with traced(model, runner) as both, a_stub(both.server) as stub:
        metadata = (("traceparent", SAMPLED),)
        async for _ in stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=2), metadata=metadata):
            pass
        (span,) = (await both.sent()).requests
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)


@pytest.mark.parametrize(
    ("traceparent", "share", "spans"),
    [
        pytest.param(NOT_SAMPLED, 1.0, 0, id="a caller who does not sample"),
        pytest.param(SAMPLED, 0.0, 1, id="a caller who does"),
        pytest.param(None, 0.0, 0, id="no caller, and a share of nothing"),
        pytest.param(None, 1.0, 1, id="no caller, and a share of all"),
        pytest.param("00-not-a-context", 1.0, 1, id="no context, and so no caller"),
    ],
)
async def test_the_callers_decision_holds(
    model: Path, runner: ScriptedRunner, traceparent: str | None, share: float, spans: int
) -> None:
    async with traced(model, runner, share) as both:
        assert await complete(both.server, traceparent) == 200
        collector = await both.sent()
    assert len(collector.requests) == spans
    assert len(collector.spans) == spans * (1 + len(STAGES))


class TwoNumbers:
    """An embedder that waits and computes as long as it says; `fault` breaks it."""

    fault: Exception | None = None
    facts = FACTS

    async def embed(self, ask: EmbedAsk) -> Embedded:
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(0.03)
        return Embedded(
            np.zeros((len(ask.inputs), 2), np.float32), (4,) * len(ask.inputs), queue_wait=0.01, compute=0.02
        )


async def test_embeddings_are_told_of_likewise(model: Path, runner: ScriptedRunner) -> None:
    async with traced(model, runner) as both:
        embedder, inner = both.server.doors.readiness, TwoNumbers()
        embedder.open(None, inner)  # type: ignore[arg-type]
        ask = EmbedAsk(("In", "the"), came_with=CameWith(traceparent=SAMPLED))
        await embedder.embedder().embed(ask)
        inner.fault = Overloaded("full", 1.0)
        with pytest.raises(Overloaded):
            await embedder.embedder().embed(ask)
        spans = (await both.sent()).requests
        served, refused = sorted(spans, key=lambda span: span.start_time_unix_nano)
        stages = {stage.name: stage for stage in both.collector.children(served)}
        labels = {
            "gen_ai_operation_name": "embeddings",
            "gen_ai_provider_name": "headrace",
            "gen_ai_request_model": NAME,
        }
        for error in ("", "Overloaded"):
            count = both.server.sample("gen_ai_server_request_duration_seconds_count", **labels, error_type=error)
            assert count == 1
    assert (served.name, served.parent_span_id.hex()) == (f"embeddings {NAME}", CALLER)
    assert attributes(served)["gen_ai.usage.input_tokens"] == 8
    assert set(stages) == {"queue", "embed"}
    assert stages["queue"].end_time_unix_nano - served.start_time_unix_nano == pytest.approx(10_000_000, abs=1000)
    assert stages["embed"].end_time_unix_nano == served.end_time_unix_nano
    assert attributes(refused)["error.type"] == "Overloaded"


async def test_a_refused_request_has_a_span_and_no_stages(model: Path, runner: ScriptedRunner) -> None:
    async with traced(model, runner) as both:
        assert await complete(both.server, max_tokens=1000) == 400
        collector = await both.sent()
    (span,) = collector.spans
    assert attributes(span)["error.type"] == "InvalidRequest"
    assert span.status.code == Status.STATUS_CODE_UNSET  # the caller's fault is no error of a server's span


async def test_a_caller_who_hangs_up_is_told_of_as_cancelled(model: Path, runner: ScriptedRunner) -> None:
    async with traced(model, runner) as both:
        runner.gate.clear()
        asked = asyncio.create_task(complete(both.server))
        await both.server.until_running(1)
        asked.cancel()
        await both.server.doors.arrivals.all_left()
        runner.gate.set()
        collector = await both.sent()
    (span,) = collector.requests
    assert attributes(span)["error.type"] == "cancelled"
    assert [stage.name for stage in collector.children(span)] == ["queue"]  # no token came


async def test_an_engine_that_broke_is_an_error_of_the_servers(model: Path, runner: ScriptedRunner) -> None:
    async with traced(model, runner) as both:
        runner.broken = RuntimeError("a bad day")
        assert await complete(both.server) == 500
        (span,) = (await both.sent()).requests
    assert attributes(span)["error.type"] == "EngineFailed"
    assert span.status.code == Status.STATUS_CODE_ERROR


async def test_a_request_that_was_asked_before_says_so(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, aiohttp.ClientSession(server.http) as session:
        for headers in (
            {"x-stainless-retry-count": "2"},
            {"x-envoy-attempt-count": "1"},
            {"x-envoy-attempt-count": "2"},
        ):
            body = {"model": NAME, "prompt": "In", "max_tokens": 1}
            async with session.post("/v1/completions", json=body, headers=headers) as response:
                assert response.status == 200
        assert server.sample("headrace_requests_retried_total") == 2
