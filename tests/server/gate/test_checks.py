"""What a release must hold: one case for each check that fails, and none when all is well."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from headrace_server.client.load import LoadPlan, run_load
from headrace_server.client.summary import LoadSummary, Outcome
from headrace_server.evaluation import BadFile
from headrace_server.gate.checks import Limits, Measured, Name, Peak, Steady, checked, read_limits
from headrace_server.gate.play import peak_of
from open_server import open_server
from scripted_runner import ScriptedRunner, always
from tiny_tokenizer import save_tiny_tokenizer

STEADY = Steady(1800.0, 9000, 0, 900e6, 910e6, 512, 512)
PEAK = Peak(15.0, 1800, 600, 0, 0, 29.0)
GOOD = Measured((), 1000.0, STEADY, PEAK)


@pytest.mark.parametrize(
    ("measured", "fails"),
    [
        pytest.param(GOOD, set(), id="all is well"),
        pytest.param(replace(GOOD, worse=("kl is 1",)), {Name.QUALITY}, id="worse answers"),
        pytest.param(replace(GOOD, steady=replace(STEADY, failed=1)), {Name.STABLE_ANSWERS}, id="one lost request"),
        pytest.param(replace(GOOD, steady=replace(STEADY, sent=0)), {Name.STABLE_ANSWERS}, id="nothing was asked"),
        pytest.param(replace(GOOD, steady=replace(STEADY, memory_last=960e6)), {Name.STABLE_MEMORY}, id="a leak"),
        pytest.param(replace(GOOD, steady=replace(STEADY, pages_free=511)), {Name.PAGES_RETURNED}, id="a lost page"),
        pytest.param(replace(GOOD, peak=replace(PEAK, errors=1)), {Name.PEAK_ANSWERS}, id="an error under load"),
        pytest.param(
            replace(GOOD, peak=replace(PEAK, refused_without_pushback=1)), {Name.PEAK_PUSHBACK}, id="a blunt refusal"
        ),
        pytest.param(replace(GOOD, peak=replace(PEAK, wait_p99=61.0)), {Name.PEAK_WAIT}, id="an endless queue"),
        pytest.param(
            replace(GOOD, peak=replace(PEAK, wait_p99=None)), {Name.PEAK_ANSWERS, Name.PEAK_WAIT}, id="only refusals"
        ),
        pytest.param(replace(GOOD, tokens_per_second=890.0), {Name.CAPACITY_KEPT}, id="a tenth slower"),
    ],
)
def test_what_fails(measured: Measured, fails: set[Name]) -> None:
    checks = checked(measured, Limits(), baseline=1000.0)
    assert {check.name for check in checks} == set(Name)
    assert {check.name for check in checks if not check.passed} == fails
    assert all(check.why for check in checks)


def test_without_a_baseline_no_speed_is_compared() -> None:
    assert Name.CAPACITY_KEPT not in {check.name for check in checked(GOOD, Limits(), None)}


def test_a_model_without_a_kv_cache_returns_no_pages() -> None:
    vectors = replace(GOOD, steady=replace(STEADY, pages_total=None, pages_free=None))
    checks = checked(vectors, Limits(), baseline=1000.0)
    assert {check.name for check in checks} == set(Name) - {Name.PAGES_RETURNED}
    assert all(check.passed for check in checks)


def test_limits_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"memory_growth": 0.2}))
    assert read_limits(path) == Limits(memory_growth=0.2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"memory": 1}', "memory: Unexpected keyword argument"),
        ('{"error_share": -1}', "error_share: Input should be greater than or equal to 0"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_file_that_holds_no_limits_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "limits.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=says):
        read_limits(path)


def test_a_peak_is_counted_from_what_came_back() -> None:
    def outcome(failure: str | None, wait: float | None, again: float | None = None) -> Outcome:
        return Outcome(0.0, 1.0, 0.1, wait, 8, 8, failure, (), again)

    full = "RESOURCE_EXHAUSTED: the queue is full"
    outcomes = (outcome(None, 2.0), outcome(None, 1.0), outcome(full, None, 3.0), outcome(full, None))
    found = peak_of(LoadSummary(1.0, (*outcomes, outcome("UNAVAILABLE: gone", None))), rate=5.0)
    assert found == Peak(rate=5.0, sent=5, refused=2, refused_without_pushback=1, errors=1, wait_p99=2.0)


async def test_a_refusal_says_when_to_come_back(tmp_path: Path) -> None:
    """Of a real server that is full."""
    save_tiny_tokenizer(tmp_path)
    plan = LoadPlan(rate=400.0, requests=40, prompt_words=(2, 3), max_new_tokens=(20, 20), ignore_eos=True)
    async with open_server(tmp_path, ScriptedRunner(always((5,))), max_running=1, max_waiting=2) as server:
        found = peak_of(await run_load(replace(plan, target=server.grpc)), plan.rate)
    assert found.refused > 0
    assert found.refused_without_pushback == found.errors == 0
