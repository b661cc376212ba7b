"""Traces as they are published, and loads made of them."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from headrace_server.client.load import LoadPlan, run_load
from headrace_server.client.plot import save_plot
from headrace_server.client.summary import LoadSummary, Outcome, Slo
from headrace_server.client.traces import Arrival, UnusableTrace, prompt_of, read_trace
from open_server import open_server
from scripted_runner import ScriptedRunner, always
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,30,10
2023-11-16 18:17:04.1799600,20,8
2023-11-16 18:17:04.0799600,10,27
"""
MOONCAKE = "".join(
    json.dumps({"timestamp": ms, "input_length": 1030, "output_length": 5, "hash_ids": ids}) + "\n"
    for ms, ids in ((0, [46, 47, 48]), (3000, [46, 47, 99]))
)
WORDS = [f"w{place}" for place in range(1000)]


def trace(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace"
    path.write_text(text)
    return path


def test_azures_columns_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    found = read_trace(trace(tmp_path, AZURE))
    assert [(each.prompt_tokens, each.new_tokens) for each in found] == [(30, 10), (10, 27), (20, 8)]
    assert [each.due for each in found] == pytest.approx([0.0, 0.1, 0.2], abs=1e-5)


def test_burst_gpts_seconds_and_columns_are_read(tmp_path: Path) -> None:
    rows = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    found = read_trace(trace(tmp_path, f"{rows}\n5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,30,7,37,API log\n"))
    assert found == (Arrival(0.0, 472, 18), Arrival(40.5, 30, 7))


def test_mooncakes_equal_blocks_give_equal_words(tmp_path: Path) -> None:
    first, second = read_trace(trace(tmp_path, MOONCAKE))
    assert (first.due, second.due, first.blocks) == (0.0, 3.0, (46, 47, 48))
    one, other = (prompt_of(each, WORDS, 0.1, random.Random(0)).split() for each in (first, second))
    assert len(one) == len(other) == 103
    assert one[:102] == other[:102]  # two blocks of 51 words
    assert one != other


FAULTS = [
    pytest.param("", "line 1: has no column", id="empty"),
    pytest.param("a,b\n1,2\n", "line 1: has no column ContextTokens", id="other columns"),
    pytest.param("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests", id="no rows"),
    pytest.param(AZURE + "yesterday,1,1\n", "line 5: is no request", id="no time"),
    pytest.param(AZURE + "2023-11-16 18:17:05,many,1\n", "line 5: is no request", id="no number"),
    pytest.param(MOONCAKE + "{}\n", "line 3: is no request: KeyError", id="no fields"),
    pytest.param(MOONCAKE + "{\n", "line 3: is no request", id="no JSON"),
]


@pytest.mark.parametrize(("text", "says"), FAULTS)
def test_what_is_no_trace_is_refused_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UnusableTrace, match=says):
        read_trace(trace(tmp_path, text))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return directory


async def test_a_trace_is_replayed_at_its_times_and_lengths(model: Path) -> None:
    runner = ScriptedRunner(always(tiny_tokenizer().encode("God created ").ids))
    arrivals = tuple(Arrival(due, 40, answer) for due, answer in ((0.0, 40), (0.1, 80), (0.6, 20)))
    plan = LoadPlan(trace=arrivals, speed=2.0, length_scale=0.1, ignore_eos=True)
    async with open_server(model, runner) as server:
        for door in ({"target": server.grpc}, {"http": server.http}):
            summary = await run_load(replace(plan, **door))
            assert summary.failures == {}
            outcomes = sorted(summary.outcomes, key=lambda each: each.due)
            assert [each.due for each in outcomes] == [0.0, 0.05, 0.3]
            assert [each.generated_tokens for each in outcomes] == [4, 8, 2]
            assert all(gap >= 0 for each in outcomes for gap in each.gaps)
        cut = await run_load(replace(plan, target=server.grpc, duration=0.1))
    assert len(cut.outcomes) == 2


def outcome(ttft: float, gaps: tuple[float, ...], duration: float, failure: str | None = None) -> Outcome:
    return Outcome(0.0, duration, ttft, None, 1, 1, failure, gaps)


def test_goodput_is_what_was_answered_within_the_objective() -> None:
    outcomes = (
        outcome(0.1, (0.01, 0.03), 1.0),
        outcome(0.3, (0.01,), 1.0),  # its first token too late
        outcome(0.1, (0.01, 0.2), 1.0),  # too slow between tokens
        outcome(0.1, (), 9.0),  # too long
        outcome(0.1, (), 0.5, "UNAVAILABLE"),
    )
    row = LoadSummary(2.0, outcomes, Slo(ttft=0.2, itl=0.05, e2e=5.0)).row("load")
    assert (row["goodput_requests_per_second"], row["goodput_share"]) == (0.5, 0.2)
    free = LoadSummary(2.0, outcomes, Slo()).row("load")
    assert free["goodput_share"] == 0.8  # a failure is never good
    assert "goodput_share" not in LoadSummary(2.0, outcomes).row("load")
    assert row["itl_p50_seconds"] == 0.01


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".html", b"<!doctype html>")])
def test_a_plot_is_one_file_also_when_nothing_was_answered(tmp_path: Path, suffix: str, begins: bytes) -> None:
    for number, outcomes in enumerate(((), (outcome(0.1, (0.01,), 1.0), outcome(0.1, (), 0.5, "<b>UNAVAILABLE</b>")))):
        path = tmp_path / f"{number}{suffix}"
        save_plot(LoadSummary(2.0, outcomes, Slo(ttft=1)), path)
        raw = path.read_bytes()
        assert raw.startswith(begins)
        assert b"<b>" not in raw
