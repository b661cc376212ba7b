"""Embed and EmbedStream, in front of an embedder whose vectors the test knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from embed_server import FACTS, EmbedServer, FixedEmbedder, embed_server, vector_of
from google.rpc.status_pb2 import Status
from grpc_errors import fields_in, reason_in, status_in
from headrace_server.embedding import EmbedAsk, Embedded
from headrace_server.errors import DeadlineExceeded, Draining, EngineFailed, Overloaded
from headrace_server.request import Priority
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.several import AT_ONCE
from open_server import NAME, open_server
from scripted_runner import ScriptedRunner

TOO_LONG = "a" * (FACTS.max_tokens + 1)


@asynccontextmanager
async def a_stub(server: EmbedServer) -> AsyncIterator[inference_pb2_grpc.InferenceStub]:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        yield inference_pb2_grpc.InferenceStub(channel)


def texts(*given: str, **more: object) -> pb.EmbedRequest:
    return pb.EmbedRequest(inputs=[pb.EmbedInput(text=text) for text in given], **more)


def vectors_in(reply: pb.EmbedReply) -> np.ndarray:
    return np.frombuffer(reply.vectors, "<f4").reshape(-1, reply.dimensions)


async def until(server: EmbedServer, asked: int) -> None:
    async with asyncio.timeout(120):
        while len(server.embedder.asked) < asked:
            await asyncio.sleep(0.005)


async def test_texts_and_token_ids_give_raw_little_endian_floats_in_order(model: Path) -> None:
    inputs = [pb.EmbedInput(text="naïve 你好"), pb.EmbedInput(tokens=pb.TokenIds(ids=[5, 6])), pb.EmbedInput(text="b")]
    async with embed_server(model) as server, a_stub(server) as stub:
        reply = await stub.Embed(pb.EmbedRequest(inputs=inputs), timeout=120)
        short = await stub.Embed(texts("a", dimensions=3, normalise=False, truncate=True, priority=pb.PRIORITY_BATCH))
        asked = server.embedder.asked[-1]
    np.testing.assert_array_equal(vectors_in(reply), [vector_of("naïve 你好"), vector_of((5, 6)), vector_of("b")])
    assert (reply.dimensions, list(reply.tokens)) == (384, [8, 2, 1])
    np.testing.assert_array_equal(vectors_in(short), [vector_of("a")[:3]])
    assert (asked.dimensions, asked.normalise, asked.truncate, asked.priority) == (3, False, True, Priority.BATCH)


async def test_the_calls_deadline_is_the_requests(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        await stub.Embed(texts("a"), timeout=1000)
        await stub.Embed(texts("a"))
    limited, free = server.embedder.asked
    assert limited.timeout is not None
    assert 900 < limited.timeout <= 1010  # gRPC has three digits on the wire, and rounds up
    assert free.timeout is None


REFUSED = [
    pytest.param(pb.EmbedRequest(), "inputs", id="no inputs"),
    pytest.param(pb.EmbedRequest(inputs=[pb.EmbedInput()]), "inputs", id="neither text nor tokens"),
    pytest.param(texts("a", ""), "inputs", id="an empty text"),
    pytest.param(pb.EmbedRequest(inputs=[pb.EmbedInput(tokens=pb.TokenIds())]), "inputs", id="no token"),
    pytest.param(texts(*["a"] * 2049), "inputs", id="too many"),
    pytest.param(texts("a", dimensions=0), "dimensions", id="no dimension"),
    pytest.param(texts("a", dimensions=-1), "dimensions", id="less than none"),
    pytest.param(texts("a", priority=9), "priority", id="unknown class"),
    pytest.param(texts(TOO_LONG), "input", id="the embedder's own refusal"),
]


@pytest.mark.parametrize(("request_", "field"), REFUSED)
async def test_what_cannot_be_embedded_is_refused_with_its_field(
    model: Path, request_: pb.EmbedRequest, field: str
) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Embed(request_)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_in(status_in(failed.value)) == [field]


FAILURES = [
    pytest.param(Overloaded("full", 3.2), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", id="full"),
    pytest.param(
        DeadlineExceeded("late", started=False), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", id="late"
    ),
    pytest.param(Draining("leaving"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", id="leaving"),
    pytest.param(EngineFailed("device lost"), grpc.StatusCode.INTERNAL, "INTERNAL", id="broken"),
]


@pytest.mark.parametrize(("failure", "code", "reason"), FAILURES)
async def test_what_goes_wrong_ends_the_call_with_its_status(
    model: Path, failure: Exception, code: grpc.StatusCode, reason: str
) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        server.embedder.failure = failure
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Embed(texts("a"))
    assert failed.value.code() is code
    assert reason_in(status_in(failed.value)) == reason


async def test_a_cancelled_call_cancels_the_embedders_work(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        server.embedder.gate.clear()
        call = stub.Embed(texts("a"))
        await until(server, 1)
        call.cancel()
        async with asyncio.timeout(120):
            while not server.embedder.cancelled or server.doors.arrivals.inside:
                await asyncio.sleep(0.005)


async def test_each_task_says_where_the_other_is_served(model: Path, runner: ScriptedRunner) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="embeds and does not generate"):
            [reply async for reply in stub.Generate(pb.GenerateRequest(text="In"))]
        tokens = (await stub.Tokenize(pb.TokenizeRequest(text="In"))).tokens
        back = (await stub.Detokenize(pb.DetokenizeRequest(tokens=tokens))).text
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="In")])
        with pytest.raises(grpc.aio.AioRpcError, match="this model embeds texts"):
            await stub.Tokenize(pb.TokenizeRequest(chat=chat))
        info = await stub.ModelInfo(pb.ModelInfoRequest())
    async with open_server(model, runner) as generator, grpc.aio.insecure_channel(generator.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="generates and does not embed"):
            await stub.Embed(texts("a"))
        with pytest.raises(grpc.aio.AioRpcError, match="generates and does not embed"):
            [reply async for reply in stub.EmbedStream(iter([]))]
    assert (info.name, info.task, info.dimensions, info.max_context) == (NAME, pb.TASK_EMBED, 384, FACTS.max_tokens)
    assert (info.pooling, info.normalises) == (pb.POOLING_MEAN, True)
    assert (list(tokens.ids), back) == ([1, ord("I"), ord("n"), 2], "In")


def numbered(count: int) -> list[pb.EmbedStreamRequest]:
    return [pb.EmbedStreamRequest(id=f"id-{place}", request=texts(f"text {place}")) for place in range(count)]


class Hasty(FixedEmbedder):
    """Answers later requests first."""

    async def embed(self, ask: EmbedAsk) -> Embedded:
        await asyncio.sleep(0.05 / (1 + len(self.asked)))
        return await super().embed(ask)


async def test_a_stream_is_answered_in_order_with_the_callers_ids(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        server.doors.readiness.open(None, Hasty())
        replies = [reply async for reply in stub.EmbedStream(iter(numbered(100)), timeout=120)]
        assert server.doors.arrivals.inside == 0
    assert [reply.id for reply in replies] == [f"id-{place}" for place in range(100)]
    for place, reply in enumerate(replies):
        np.testing.assert_array_equal(vectors_in(reply.reply), [vector_of(f"text {place}")])


async def test_a_stream_works_on_so_many_at_a_time_and_reads_no_further(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        server.embedder.gate.clear()
        call = stub.EmbedStream(iter(numbered(3 * AT_ONCE)))
        await until(server, AT_ONCE)
        await asyncio.sleep(0.1)
        assert (len(server.embedder.asked), server.doors.arrivals.inside) == (AT_ONCE, AT_ONCE)
        server.embedder.gate.set()
        assert len([reply async for reply in call]) == 3 * AT_ONCE


async def test_a_refused_request_has_its_status_and_the_stream_goes_on(model: Path) -> None:
    requests = numbered(3)
    requests[1] = pb.EmbedStreamRequest(id="bad", request=texts(TOO_LONG))
    async with embed_server(model) as server, a_stub(server) as stub:
        replies = [reply async for reply in stub.EmbedStream(iter(requests), timeout=120)]
    assert [reply.WhichOneof("outcome") for reply in replies] == ["reply", "refused", "reply"]
    refused: Status = replies[1].refused
    assert (replies[1].id, fields_in(refused)) == ("bad", ["input"])


async def test_a_replica_that_leaves_ends_the_stream_after_what_it_has_answered(model: Path) -> None:
    async def requests() -> AsyncIterator[pb.EmbedStreamRequest]:
        yield numbered(1)[0]
        await answered.wait()
        server.embedder.failure = Draining("this replica is shutting down")
        yield numbered(1)[0]
        await asyncio.Event().wait()  # a client that never ends its side

    answered = asyncio.Event()
    async with embed_server(model) as server, a_stub(server) as stub:
        call = stub.EmbedStream(requests())
        assert (await call.read()).HasField("reply")
        answered.set()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.doors.arrivals.inside == 0


async def test_a_cancelled_stream_cancels_all_it_began(model: Path) -> None:
    async with embed_server(model) as server, a_stub(server) as stub:
        server.embedder.gate.clear()
        call = stub.EmbedStream(iter(numbered(10)))
        await until(server, 10)
        call.cancel()
        async with asyncio.timeout(120):
            while server.embedder.cancelled < 10 or server.doors.arrivals.inside:
                await asyncio.sleep(0.005)


async def test_an_idle_stream_does_not_hold_up_a_drain(model: Path) -> None:
    async def silence() -> AsyncIterator[pb.EmbedStreamRequest]:
        yield numbered(1)[0]
        await asyncio.Event().wait()

    async with embed_server(model) as server, a_stub(server) as stub:
        call = stub.EmbedStream(silence())
        await call.read()
        async with asyncio.timeout(120):
            await server.doors.arrivals.all_left()
            await server.doors.grpc.server.stop(0.1)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call.read()
