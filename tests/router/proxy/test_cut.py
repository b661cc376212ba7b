"""What a client hears over gRPC when the replica dies that its stream comes from: as docs/grpc.md says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from headrace_server.client import failures
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from replicas import HOST, Replica, running
from routed import routed


class Endless(Replica):
    """Never comes to its second token."""

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateReply]:
        yield pb.GenerateReply(text=self.name)
        await asyncio.Event().wait()


async def test_a_stream_whose_replica_died_is_told_apart_from_a_failure_of_the_replica(tmp_path: Path) -> None:
    dying = Endless("dying")
    async with (
        running(dying),
        cable(dying.grpc_port) as (port, cut),
        routed(tmp_path / "log", f"--replica={HOST}:{port}:{dying.http_port}") as router,
    ):
        error = await broken(router.grpc, cut)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert failures.is_cut(error)
    assert failures.words(error).endswith("; the replica that answered is gone, ask again")


async def test_without_a_router_the_connection_breaks() -> None:
    dying = Endless("dying")
    async with running(dying), cable(dying.grpc_port) as (port, cut):
        error = await broken(f"{HOST}:{port}", cut)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def broken(address: str, cut: "Cut") -> grpc.aio.AioRpcError:
    """How a stream ends whose replica is gone after the first token."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest(text="x"), timeout=300)
        assert (await anext(aiter(call))).text == "dying"
        cut()
        return await failure(call)


async def failure(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateReply]") -> grpc.aio.AioRpcError:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the stream ended well")


@asynccontextmanager
async def cable(port: int) -> AsyncIterator[tuple[int, "Cut"]]:
    """A port that leads to `port`, and what tears all of its connections as the kernel does for a killed process."""
    cut = Cut()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
        cut.ends += [writer, far_writer]
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        cut()
        server.close()


class Cut:
    def __init__(self) -> None:
        self.ends: list[asyncio.StreamWriter] = []

    def __call__(self) -> None:
        for end in self.ends:
            end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
