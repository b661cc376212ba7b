"""Offline jobs of real processes that are killed with -9, on either side, at random moments."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from checkpoints import write_checkpoint
from served_process import HEADRACE, NAME, PATIENCE, ServedProcess, environment, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer

REQUESTS = 60
TOKENS = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, max_position_embeddings=256)
    save_tiny_tokenizer(directory)
    return directory


def lines() -> list[dict[str, Any]]:
    body = {"model": NAME, "prompt": "In the beginning", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    return [
        {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
        for number in range(REQUESTS)
    ]


def jsonl(several: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in several)


async def test_a_client_killed_again_and_again_leaves_one_result_a_line(checkpoint: Path, tmp_path: Path) -> None:
    source, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(jsonl(lines()))
    dice = random.Random(6)
    killed = 0
    async with served(serve_command(checkpoint), tmp_path) as server:
        command = [str(HEADRACE), "batch", "run", str(source), str(results), f"--server={server.http}"]
        while killed < 4:
            process = await asyncio.create_subprocess_exec(
                *command, "--concurrency=4", stderr=asyncio.subprocess.DEVNULL, env=environment()
            )
            wanted = written(results) + dice.randint(1, 10)
            async with asyncio.timeout(PATIENCE):
                while process.returncode is None and written(results) < wanted:
                    await asyncio.sleep(dice.uniform(0.001, 0.01))
            process.kill()
            assert await process.wait() == -signal.SIGKILL, "it was to be killed half way"
            killed += 1
        process = await asyncio.create_subprocess_exec(*command, env=environment())
        async with asyncio.timeout(PATIENCE):
            status = await process.wait()
    assert status == 0
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert Counter(one["custom_id"] for one in found) == Counter(line["custom_id"] for line in lines())
    assert {one["response"]["body"]["usage"]["completion_tokens"] for one in found} == {TOKENS}
    assert len({one["response"]["body"]["choices"][0]["text"] for one in found}) == 1  # greedy, whoever asked


def written(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def test_a_server_killed_again_and_again_completes_its_batch_with_one_result_a_line(
    checkpoint: Path, tmp_path: Path
) -> None:
    dice = random.Random(7)
    command = serve_command(checkpoint, f"--batch-store={tmp_path / 'store'}", "--batch-concurrency=6")
    batch_id, completed = "", 0
    for _ in range(2):
        async with served(command, tmp_path) as server, a_session(server) as session:
            batch_id = batch_id or await accepted(session)
            wanted = completed + dice.randint(3, 12)
            async with asyncio.timeout(PATIENCE):
                while (batch := await get(session, f"/v1/batches/{batch_id}"))["request_counts"]["completed"] < wanted:
                    await asyncio.sleep(dice.uniform(0.001, 0.02))
            completed = batch["request_counts"]["completed"]
            assert batch["status"] == "in_progress", "it was to be killed half way"
            server.process.kill()
            assert await server.exit_status() == -signal.SIGKILL

    async with served(command, tmp_path) as server, a_session(server) as session, asyncio.timeout(PATIENCE):
        assert (await get(session, f"/v1/batches/{batch_id}"))["request_counts"]["completed"] >= completed
        while (batch := await get(session, f"/v1/batches/{batch_id}"))["status"] != "completed":
            await asyncio.sleep(0.05)
        async with session.get(f"/v1/files/{batch['output_file_id']}/content") as response:
            output = await response.text()
    found = [json.loads(line) for line in output.splitlines()]
    assert [one["custom_id"] for one in found] == [line["custom_id"] for line in lines()]
    assert {one["response"]["body"]["usage"]["completion_tokens"] for one in found} == {TOKENS}
    assert batch["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
    assert batch["error_file_id"] is None


async def test_sigterm_gives_offline_work_back_and_ends_without_waiting_for_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    command = serve_command(checkpoint, f"--batch-store={tmp_path / 'store'}", "--batch-concurrency=2")
    async with served(command, tmp_path) as server, a_session(server) as session:
        batch_id = await accepted(session)
        while (await get(session, f"/v1/batches/{batch_id}"))["request_counts"]["completed"] < 1:
            await asyncio.sleep(0.01)
        server.terminate()
        assert await server.exit_status() == 0
    async with served(command, tmp_path) as server, a_session(server) as session, asyncio.timeout(PATIENCE):
        while (batch := await get(session, f"/v1/batches/{batch_id}"))["status"] != "completed":
            await asyncio.sleep(0.05)
    assert batch["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}


@asynccontextmanager
async def a_session(server: ServedProcess) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{server.http}") as session:
        yield session


async def accepted(session: aiohttp.ClientSession) -> str:
    """A batch of all the lines; its id."""
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", jsonl(lines()), filename="in.jsonl")
    async with session.post("/v1/files", data=form) as response:
        file = await response.json()
    order = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    async with session.post("/v1/batches", json=order) as response:
        return str((await response.json())["id"])


async def get(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found
