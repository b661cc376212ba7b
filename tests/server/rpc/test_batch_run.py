"""`headrace batch run` as its users meet it: a command, two files, and processes that die at any moment."""

import asyncio
import itertools
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from headrace_server.client.batch import UNFINISHED, UNUSABLE
from headrace_server.request import Priority
from open_server import NAME, OpenServer, open_server
from scripted_runner import ScriptedRunner
from served_process import HEADRACE, PATIENCE, environment

REQUESTS = 120


def completion(number: int, **body: Any) -> dict[str, Any]:
    fields = {"model": NAME, "prompt": "In the", "max_tokens": 8} | body
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": fields}


def chat(number: int) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": "In"}], "max_tokens": 4}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@asynccontextmanager
async def started(source: Path, results: Path, server: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [str(HEADRACE), "batch", "run", str(source), str(results), f"--server={server}", *flags]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environment())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(source: Path, results: Path, server: str, *flags: str) -> tuple[int, str]:
    async with started(source, results, server, *flags) as process, asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
        return process.returncode or 0, said.decode()


def address(server: OpenServer) -> str:
    return server.http.removeprefix("http://")


async def test_completions_and_chats_get_a_result_each_in_openais_shape(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", [completion(0), chat(1), completion(2, max_tokens=500)])
    async with open_server(model, runner) as server:
        status, said = await ended(source, tmp_path / "out.jsonl", address(server))
        computed = {one: server.sample("headrace_step_tokens_total", **{"class": one}) for one in Priority}
    found = {result["custom_id"]: result for result in results_in(tmp_path / "out.jsonl")}
    assert {one for one, tokens in computed.items() if tokens} == {Priority.BATCH}
    assert {custom_id: result["response"]["status_code"] for custom_id, result in found.items()} == {
        "r0": 200,
        "r1": 200,
        "r2": 400,  # 500 tokens are beyond the context, which only the server knows
    }
    assert all(set(result) == {"id", "custom_id", "response", "error"} for result in found.values())
    assert found["r0"]["response"]["body"]["usage"]["completion_tokens"] == 8
    assert found["r0"]["response"]["request_id"].startswith("cmpl-")
    assert found["r1"]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert "max_tokens: is 500" in found["r2"]["response"]["body"]["error"]["message"]
    assert status == UNFINISHED
    assert "3 of 3 results" in said
    assert "3 results, 1 of them failed" in said
    assert "1 x HTTP 400" in said


async def test_killed_at_any_moment_and_started_again_each_request_has_one_result(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", [completion(number) for number in range(REQUESTS)])
    results = tmp_path / "out.jsonl"
    dice = random.Random(6)
    seen = [0]
    async with open_server(model, runner) as server:
        flags = ("--concurrency=3",)
        while len(seen) < 6:
            async with started(source, results, address(server), *flags) as process:
                wanted = seen[-1] + dice.randint(1, 12)
                async with asyncio.timeout(PATIENCE):
                    while process.returncode is None and lines_of(results) < wanted:
                        await asyncio.sleep(0.001)
                process.send_signal(signal.SIGKILL)
                assert await process.wait() == -signal.SIGKILL  # it was in the middle
            if dice.random() < 0.5:
                with results.open("ab") as torn:
                    torn.write(b'{"id":"batch_req_0')
            seen.append(lines_of(results))
        status, _ = await ended(source, results, address(server), *flags)
        asked = server.sample("headrace_requests_received_total")
    assert status == 0
    assert sorted(result["custom_id"] for result in results_in(results)) == sorted(f"r{n}" for n in range(REQUESTS))
    assert all(earlier < later for earlier, later in itertools.pairwise(seen))
    assert asked <= REQUESTS + 3 * (len(seen) - 1)  # what was open when it died is asked again, nothing else


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def test_a_full_server_is_asked_again_and_every_request_is_answered(
    model: Path, runner: ScriptedRunner, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", [completion(number, max_tokens=2) for number in range(12)])
    async with open_server(model, runner, max_running=1, max_waiting=1) as server:
        runner.gate.clear()  # one runs, one waits, and nobody goes on: the third is refused
        running = asyncio.create_task(ended(source, tmp_path / "out.jsonl", address(server), "--concurrency=6"))
        async with asyncio.timeout(PATIENCE):
            while not server.sample("headrace_requests_refused_total", reason="overloaded"):
                await asyncio.sleep(0.01)
        runner.gate.set()
        status, said = await running
        retried = server.sample("headrace_requests_retried_by_class_total", **{"class": "batch"})
        refused = server.sample("headrace_requests_refused_total", reason="overloaded")
    assert retried == refused  # each came again, and said so
    assert "waiting for the server: HTTP 429: " in said
    assert status == 0
    assert len(results_in(tmp_path / "out.jsonl")) == 12


async def test_a_server_that_never_answers_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [completion(0)])
    gone = "127.0.0.1:1"  # nobody listens there
    status, said = await ended(source, tmp_path / "out.jsonl", gone, "--patience=0.5")
    assert status == UNFINISHED
    assert f"no answer from http://{gone} for" in said
    assert "the same command goes on where this one stopped" in said
    assert results_in(tmp_path / "out.jsonl") == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param([completion(0), completion(0)], "line 2: custom_id: 'r0' is that of line 1 too", id="same id"),
        pytest.param([completion(0, top_p=3)], "line 1: body.top_p: is 3.0; must be", id="a field"),
        pytest.param([completion(0), completion(1, model="other")], "line 2: body.model: 'other' is not", id="model"),
        pytest.param([], "is empty; write one request a line", id="nothing"),
    ],
)
async def test_an_input_that_cannot_run_is_refused_before_anything_is_sent(
    model: Path, runner: ScriptedRunner, tmp_path: Path, lines: list[dict[str, Any]], says: str
) -> None:
    source = write(tmp_path / "in.jsonl", lines)
    async with open_server(model, runner) as server:
        status, said = await ended(source, tmp_path / "out.jsonl", address(server))
        received = server.sample("headrace_requests_received_total")
    assert (status, received) == (UNUSABLE, 0)
    assert says in said
    assert "Traceback" not in said


async def test_results_of_another_job_are_not_added_to(model: Path, runner: ScriptedRunner, tmp_path: Path) -> None:
    results = tmp_path / "out.jsonl"
    async with open_server(model, runner) as server:
        await ended(write(tmp_path / "one.jsonl", [completion(0)]), results, address(server))
        before = results.read_bytes()
        status, said = await ended(write(tmp_path / "two.jsonl", [completion(1)]), results, address(server))
    assert status == UNUSABLE
    assert "holds a result of 'r0', for which" in said
    assert results.read_bytes() == before
