"""POST /drain: a server that finishes what it has, stays, and says when it is done."""

import asyncio
from pathlib import Path

import aiohttp
import grpc
import pytest
from checkpoints import write_checkpoint
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from served_process import PATIENCE, ServedProcess, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer

UID = "0b6f7c1e-pod"
BEARER = {"Authorization": f"Bearer {UID}"}
LONG = 1500  # tokens that keep the tiny model busy for longer than the calls of a test take


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, max_position_embeddings=4096)
    save_tiny_tokenizer(directory)
    return directory


async def drain(server: ServedProcess, headers: dict[str, str]) -> int:
    async with aiohttp.ClientSession() as session, session.post(f"http://{server.http}/drain", headers=headers) as told:
        return told.status


async def metric(server: ServedProcess, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.http}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def ready(server: ServedProcess) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.http}/ready") as answer:
        return answer.status


async def until(server: ServedProcess, name: str, value: float) -> None:
    async with asyncio.timeout(PATIENCE):
        while await metric(server, name) != value:
            await asyncio.sleep(0.02)


async def stream(server: ServedProcess, tokens: int) -> int:
    """The tokens that arrived."""
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        request = pb.GenerateRequest(text="In the beginning", max_new_tokens=tokens, ignore_eos=True)
        replies = inference_pb2_grpc.InferenceStub(channel).Generate(request)
        return sum([len(reply.token_ids) async for reply in replies])


async def test_a_drained_server_finishes_its_streams_and_stays_until_it_is_told_to_end(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with served(serve_command(checkpoint, "--max-connection-age=1"), tmp_path, POD_UID=UID) as server:
        running = [asyncio.create_task(stream(server, LONG)) for _ in range(4)]
        await until(server, "headrace_requests_inside", 4)
        assert await drain(server, BEARER) == 202
        assert await drain(server, BEARER) == 202  # an operator that was restarted asks again
        assert await ready(server) == 503
        assert await metric(server, "headrace_drained") == 0
        assert await asyncio.gather(*running) == [LONG] * 4
        await until(server, "headrace_drained", 1)
        assert await metric(server, "headrace_requests_inside") == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await stream(server, 1)
        assert server.process.returncode is None
        server.terminate()
        assert await server.exit_status() == 0


async def test_a_signal_during_a_drain_goes_on_with_it(checkpoint: Path, tmp_path: Path) -> None:
    async with served(serve_command(checkpoint, "--max-connection-age=1"), tmp_path, POD_UID=UID) as server:
        running = asyncio.create_task(stream(server, LONG))
        await until(server, "headrace_requests_inside", 1)
        assert await drain(server, BEARER) == 202
        server.terminate()
        assert await running == LONG
        assert await server.exit_status() == 0


async def test_after_the_drain_timeout_a_signal_cuts_off_what_is_left(checkpoint: Path, tmp_path: Path) -> None:
    flags = ("--max-connection-age=1", "--drain-timeout=0.5")
    async with served(serve_command(checkpoint, *flags), tmp_path, POD_UID=UID) as server:
        running = asyncio.create_task(stream(server, 4000))
        await until(server, "headrace_requests_inside", 1)
        assert await drain(server, BEARER) == 202
        await asyncio.sleep(1)
        assert server.process.returncode is None
        server.terminate()
        assert await server.exit_status() == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await running


@pytest.mark.parametrize(
    ("variables", "headers"),
    [
        pytest.param({"POD_UID": UID}, {}, id="no token"),
        pytest.param({"POD_UID": UID}, {"Authorization": "Bearer 0b6f7c1e-other"}, id="another pod's UID"),
        pytest.param({"POD_UID": UID}, {"Authorization": f"Basic {UID}"}, id="another scheme"),
        pytest.param({}, {"Authorization": "Bearer None"}, id="a server that was given no UID"),
    ],
)
async def test_without_the_pods_uid_nobody_is_drained(
    checkpoint: Path, tmp_path: Path, variables: dict[str, str], headers: dict[str, str]
) -> None:
    async with served(serve_command(checkpoint), tmp_path, **variables) as server:
        assert await drain(server, headers) == 401
        assert await ready(server) == 200
        assert await stream(server, 1) == 1
