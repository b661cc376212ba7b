"""The load generator against a real server: what it sends, what it counts, what it says of failures."""

import asyncio
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from headrace_server.client.load import LoadPlan, run_load
from headrace_server.client.summary import LoadSummary, Outcome, percentile
from open_server import CONTEXT, open_server
from scripted_runner import ScriptedRunner
from served_process import HEADRACE, PATIENCE, environment

PLAN = {"rate": 200.0, "requests": 30, "prompt_words": (1, 3), "max_new_tokens": (2, 4), "ignore_eos": True}


@pytest.mark.parametrize("fresh", [False, True], ids=["kept connections", "a connection for each request"])
@pytest.mark.parametrize("door", ["target", "http"])
async def test_every_request_is_answered_counted_and_timed(
    model: Path, runner: ScriptedRunner, door: str, fresh: bool
) -> None:
    heard: list[Outcome] = []
    async with open_server(model, runner) as server:
        address = server.grpc if door == "target" else server.http
        summary = await run_load(LoadPlan(**PLAN, **{door: address}, fresh_connections=fresh), heard.append)
        generated = server.sample("headrace_generation_tokens_total")
        finished = server.sample("headrace_requests_finished_total", outcome="length")
    row = summary.row("load")

    assert (row["requests_sent"], row["requests_failed"], row["failures"]) == (30, 0, {})
    assert sorted(heard, key=lambda each: each.due) == sorted(summary.outcomes, key=lambda each: each.due)
    assert finished == 30
    assert row["output_tokens"] == generated
    assert row["output_tokens_per_second"] == pytest.approx(generated / summary.seconds, abs=0.1)
    assert 0 < row["ttft_p50_seconds"] <= row["ttft_p95_seconds"] <= row["ttft_p99_seconds"]
    assert row["ttft_p50_seconds"] <= row["duration_p50_seconds"] < 5
    assert (row["queue_wait_p95_seconds"] is None) == (door == "http")


async def test_equal_plans_send_equal_requests_at_equal_times(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        sent = []
        for seed in (1, 1, 2):
            summary = await run_load(LoadPlan(**PLAN, target=server.grpc, seed=seed))
            outcomes = sorted(summary.outcomes, key=lambda each: each.due)
            sent.append([(each.due, each.prompt_tokens, each.generated_tokens) for each in outcomes])
    assert sent[0] == sent[1] != sent[2]


async def test_the_load_does_not_wait_for_a_slow_server(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        runner.gate.clear()
        load = asyncio.create_task(run_load(LoadPlan(**PLAN, target=server.grpc)))
        await server.until_inside(30)  # all of them, though none is answered
        runner.gate.set()
        assert (await load).failures == {}


async def test_a_concurrency_limit_holds_and_its_wait_is_counted(model: Path, runner: ScriptedRunner) -> None:
    inside: list[int] = []
    async with open_server(model, runner) as server:
        runner.gate.clear()

        def look(_: Outcome) -> None:
            inside.append(server.engine.load().running + server.engine.load().waiting)

        all_at_once = LoadPlan(**(PLAN | {"rate": 100_000.0}), target=server.grpc, concurrency_limit=2)
        load = asyncio.create_task(run_load(all_at_once, look))
        await server.until_inside(2)
        began = time.monotonic()
        await asyncio.sleep(0.1)  # all are due by now
        held = time.monotonic() - began
        runner.gate.set()
        summary = await load
    assert summary.failures == {}
    assert max(inside) <= 2
    assert min(outcome.ttft or 0 for outcome in summary.outcomes) >= held


async def test_failures_are_counted_by_what_the_server_said(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        plan = LoadPlan(rate=500, requests=5, max_new_tokens=(CONTEXT, CONTEXT), prompt_words=(1, 1))
        over_grpc = await run_load(replace(plan, target=server.grpc))
        over_http = await run_load(replace(plan, http=server.http))
    nobody = await run_load(replace(plan, target="127.0.0.1:1"))

    assert sum(over_grpc.failures.values()) == sum(over_http.failures.values()) == 5
    assert all(message.startswith("INVALID_ARGUMENT: max_new_tokens: ") for message in over_grpc.failures)
    assert all(message.startswith("HTTP 400: ") and "max_tokens" in message for message in over_http.failures)
    assert all(message.startswith("UNAVAILABLE: ") for message in nobody.failures)
    assert over_grpc.row("x")["ttft_p50_seconds"] is None


async def test_the_command_prints_the_summary_as_json(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        flags = ["--rate=200", "--requests=10", "--prompt-words=1:3", "--max-new-tokens=2", "--json=-"]
        command = [HEADRACE, "load", f"--target={server.grpc}", *flags]
        ended = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False
        )
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert set(summary) == {"machine", "work", "rows"}
    assert summary["work"]["rate"] == 200
    [row] = summary["rows"]
    assert (row["requests_sent"], row["output_tokens"]) == (10, 20)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(["--rate=0", "--requests=1"], "--rate: is 0; must be above 0", id="no rate"),
        pytest.param(["--rate=1"], "--duration --requests is required", id="no end"),
        pytest.param(["--rate=1", "--requests=1", "--prompt-words=5:2"], "must be A:B", id="range upside down"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused_by_its_flag(flags: list[str], says: str) -> None:
    command = [HEADRACE, "load", "--target=127.0.0.1:1", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False)
    assert ended.returncode == 2
    assert says in ended.stderr


def test_percentiles_are_values_that_were_seen() -> None:
    ordered = [float(value) for value in range(1, 11)]
    assert [percentile(ordered, part) for part in (0.01, 0.5, 0.95, 1.0)] == [1, 5, 10, 10]
    assert percentile([7.0], 0.5) == 7.0


def test_a_load_without_answers_has_no_speed() -> None:
    row = LoadSummary(0.0, ()).row("nothing")
    assert (row["requests_sent"], row["output_tokens_per_second"]) == (0, None)
