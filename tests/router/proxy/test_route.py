"""What a client sees of `headrace route`: a real Envoy between a real gRPC or HTTP client and two replicas."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import pytest
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from replicas import Replica, running, said_by
from routed import Routed, routed


class Clients:
    def __init__(self, router: Routed, session: aiohttp.ClientSession, stub: inference_pb2_grpc.InferenceStub) -> None:
        self.router = router
        self._session = session
        self._stub = stub

    async def generate(
        self, prompt: str, timeout: float = 300, metadata: tuple[tuple[str, str], ...] = ()
    ) -> list[str]:
        call = self._stub.Generate(pb.GenerateRequest(text=prompt), timeout=timeout, metadata=metadata)
        return [reply.text async for reply in call]

    async def complete(self, prompt: str, **headers: str) -> tuple[int, str]:
        url = f"http://{self.router.http}/v1/completions"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(url, json={"prompt": prompt}, headers=named) as response:
            return response.status, await response.text()

    @property
    def stub(self) -> inference_pb2_grpc.InferenceStub:
        return self._stub


@pytest.fixture
async def two() -> AsyncIterator[tuple[Replica, Replica]]:
    a, b = Replica("a"), Replica("b")
    async with running(a), running(b):
        yield a, b


async def opened(stack: AsyncExitStack, folder: Path, *flags: str) -> Clients:
    router = await stack.enter_async_context(routed(folder / "log", *flags))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(router.grpc))
    return Clients(router, session, inference_pb2_grpc.InferenceStub(channel))


@pytest.fixture
async def clients(two: tuple[Replica, Replica], tmp_path: Path) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield await opened(stack, tmp_path, two[0].flag, two[1].flag)


async def test_equal_beginnings_go_to_one_replica_over_both_doors(
    clients: Clients, two: tuple[Replica, Replica]
) -> None:
    beginning = "You are a helpful assistant. " * 10
    for turn in range(4):
        assert len(set(await clients.generate(beginning + str(turn)))) == 1
        await clients.router.until("headrace_router_requests_in_flight", 0)  # its end is known a moment later
    assert sorted(len(replica.asked) for replica in two) == [0, 4], await clients.router.metrics()
    for turn in range(4):
        assert (await clients.complete(beginning + str(turn)))[0] == 200
        await clients.router.until("headrace_router_requests_in_flight", 0)
    assert sorted(len(replica.asked) for replica in two) in ([0, 8], [4, 4])


async def test_requests_together_are_spread_by_what_each_replica_has_to_do(
    clients: Clients, two: tuple[Replica, Replica]
) -> None:
    for replica in two:
        replica.gate.clear()
    calls = [asyncio.create_task(clients.generate("the same beginning")) for _ in range(8)]
    await clients.router.until("headrace_router_requests_in_flight", 8)
    for replica in two:
        replica.gate.set()
    answers = await asyncio.gather(*calls)
    assert all(len(answer) == 3 for answer in answers)
    assert max(replica.most_inside for replica in two) <= 6  # 1.25 times the mean of 4, and one


async def test_a_stream_passes_token_by_token(clients: Clients, two: tuple[Replica, Replica]) -> None:
    for replica in two:
        replica.tokens = 200
    assert len(await clients.generate("long")) == 200


async def test_a_stream_in_both_directions_does_not_wait_for_its_end(clients: Clients) -> None:
    call = clients.stub.EmbedStream(timeout=300)
    await call.write(pb.EmbedStreamRequest(id="1"))
    assert (await call.read()).id == "1"  # before the client says that it is done
    await call.write(pb.EmbedStreamRequest(id="2"))
    assert (await call.read()).id == "2"
    await call.done_writing()


async def test_what_a_replica_refuses_reaches_the_client_as_it_was_said(
    clients: Clients, two: tuple[Replica, Replica]
) -> None:
    for replica in two:
        replica.fails_with = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await clients.generate("x")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "was told to" in (refused.value.details() or "")
    assert sum(len(replica.metadata) for replica in two) == 1  # not tried again: that would make the crowd larger


async def test_a_replica_that_is_unavailable_costs_its_client_nothing(
    clients: Clients, two: tuple[Replica, Replica]
) -> None:
    two[0].fails_with = grpc.StatusCode.UNAVAILABLE
    for turn in range(6):
        assert set(await clients.generate(f"{turn} is another beginning")) == {"b"}


async def test_the_clients_own_names_reach_the_replica(clients: Clients, two: tuple[Replica, Replica]) -> None:
    await clients.complete(
        "x", x_request_id="mine", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    )
    await clients.generate("x", metadata=(("x-request-id", "mine"), ("x-headrace-endpoint", "127.0.0.1:1")))
    heard = [heard for replica in two for heard in replica.metadata]
    assert [each["x-request-id"] for each in heard] == ["mine", "mine"]
    assert heard[0].get("traceparent", heard[-1].get("traceparent")) is not None


async def test_a_client_cannot_give_the_pickers_answer(clients: Clients) -> None:
    status, said = await clients.complete(
        "x", x_headrace_hop="Fallback a b", x_headrace_mirror="http", x_headrace_endpoint="127.0.0.1:1"
    )
    assert status == 200
    assert said.count("data: ") == 3
    assert (await clients.router.metrics())['headrace_router_requests_total{door="http",reason="Affinity"}'] == 1


async def test_a_deadline_that_passes_frees_the_replica(clients: Clients, two: tuple[Replica, Replica]) -> None:
    for replica in two:
        replica.gate.clear()
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await clients.generate("x", timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await clients.router.until("headrace_router_requests_in_flight", 0)
    async with asyncio.timeout(300):
        while any(replica.inside for replica in two):
            await asyncio.sleep(0.02)


async def test_a_replica_that_dies_before_its_first_token_loses_no_request(tmp_path: Path) -> None:
    a, b = Replica("a"), Replica("b")
    async with AsyncExitStack() as stack:
        crash = await stack.enter_async_context(running(a))
        await stack.enter_async_context(running(b))
        clients = await opened(stack, tmp_path, a.flag, b.flag)
        a.gate.clear()
        b.gate.clear()
        calls = [asyncio.create_task(clients.generate(f"{turn} of many")) for turn in range(12)]
        await clients.router.until("headrace_router_requests_in_flight", 12)
        async with asyncio.timeout(300):
            while a.inside + b.inside < 12:
                await asyncio.sleep(0.02)
        assert a.inside > 0
        crash()
        b.gate.set()
        assert [set(answer) for answer in await asyncio.gather(*calls)] == [{"b"}] * 12


async def test_a_router_that_leaves_finishes_its_streams(two: tuple[Replica, Replica], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, tmp_path, two[0].flag, two[1].flag, "--linger=0.1")
        for replica in two:
            replica.gate.clear()
        call = asyncio.create_task(clients.generate("x"))
        await clients.router.until("headrace_router_requests_in_flight", 1)
        clients.router.terminate()
        await asyncio.sleep(1)  # longer than the linger: it waits for the stream, and for nothing else
        for replica in two:
            replica.gate.set()
        assert len(await call) == 3
        assert await clients.router.exit_status() == 0


async def test_a_replica_that_nobody_can_reach_is_said_to_be_unavailable(tmp_path: Path) -> None:
    gone = Replica("gone", grpc_port=1, http_port=1)  # nobody listens there
    async with AsyncExitStack() as stack:
        clients = await opened(stack, tmp_path, gone.flag)
        assert (await clients.complete("x"))[0] == 503
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await clients.generate("x")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_whose_client_asks_ends_with_an_event_where_its_replica_dies(
    clients: Clients, two: tuple[Replica, Replica]
) -> None:
    for replica in two:
        replica.dies_after = 2
    url = f"http://{clients.router.http}/v1/completions"
    headers = {"x-headrace-progress": "comments"}
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json={"prompt": "x", "stream": True}, headers=headers) as response:
            said = await said_by(response, *two)
        with pytest.raises(aiohttp.ClientPayloadError):  # who does not ask sees the stream cut off
            async with session.post(url, json={"prompt": "x", "stream": True}) as response:
                await said_by(response, *two)
    assert said.count("data: ") == 3
    assert json.loads(said.rpartition("data: ")[2])["error"]["code"] == "service_unavailable"


async def test_a_mirror_hears_what_a_replica_answers_and_delays_nobody(
    two: tuple[Replica, Replica], tmp_path: Path
) -> None:
    serving, mirror = two
    mirror.gate.clear()
    async with AsyncExitStack() as stack:
        clients = await opened(stack, tmp_path, serving.flag, f"--mirror={mirror.address}", "--mirror-share=50%")
        for turn in range(4):
            assert set(await clients.generate(f"over gRPC {turn}")) == {"a"}
            assert "data: a" in (await clients.complete(f"over HTTP {turn}"))[1]
        async with asyncio.timeout(300):
            while mirror.inside < 4:
                await asyncio.sleep(0.02)
        assert len(serving.asked) == 8
        assert len(mirror.asked) == 4
        assert set(mirror.asked) < set(serving.asked)
        assert (await clients.router.metrics())["headrace_router_mirrored_total"] == 4
        await clients.router.until("headrace_router_requests_in_flight", 0)
        mirror.gate.set()


async def test_a_mirror_that_is_gone_costs_nobody_anything(two: tuple[Replica, Replica], tmp_path: Path) -> None:
    gone = Replica("gone", grpc_port=1, http_port=1)  # nobody listens there
    async with AsyncExitStack() as stack:
        clients = await opened(stack, tmp_path, two[0].flag, f"--mirror={gone.address}")
        for turn in range(3):
            assert set(await clients.generate(str(turn))) == {"a"}
        assert (await clients.router.metrics())["headrace_router_unreached_total"] == 0
