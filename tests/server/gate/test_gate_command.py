"""The gate from end to end: a real model, a real server process, seconds instead of minutes."""

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from gate_reports import key_pair, line
from headrace_server import gate_command, harness
from headrace_server.errors import ModelRefused
from headrace_server.gate import play, server_process
from headrace_server.gate.checks import Name
from headrace_server.gate.report import model_digest, sealed
from headrace_server.machine import machine
from headrace_server.task_scores import Score
from minilm import minilm
from served_process import HEADRACE, environment, serve_command, served
from tiny_tokenizer import save_tiny_tokenizer

MODEL = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
SHORT = ("--minutes=0.03", "--peak-minutes=0.03", "--capacity-minutes=0.03", "--max-running=4", "--kv-cache-mib=16")


def gated(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(HEADRACE), "gate", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


async def test_a_model_goes_through_and_a_server_that_asks_for_its_report_loads_it(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    golden, report = tmp_path / "golden.jsonl", tmp_path / "report.json"
    golden.write_text(json.dumps({"prompt": "And God said,", "answer": " Let there be light"}))
    limits = tmp_path / "limits.json"
    limits.write_text('{"memory_growth": 0.5}')  # in seconds, memory that is used for the first time looks like a leak
    done = gated(
        "run", f"--model={MODEL}", f"--golden={golden}", *SHORT, f"--limits={limits}", "--sign-off=a test",
        f"--key={private}", f"--json={report}",
    )  # fmt: skip
    body = json.loads(report.read_text())["body"]
    assert done.returncode == (0 if body["passed"] else 1), done.stderr
    checks = {check["name"]: check for check in body["checks"]}
    assert set(checks) == set(Name) - {Name.CAPACITY_KEPT}
    assert body["passed"], body["checks"]
    assert body["signed_off_by"] == "a test"
    assert body["tokens_per_second"] > 0
    assert body["peak"]["rate"] == pytest.approx(1.5 * body["requests_per_second"])
    assert gated("verify", str(report), f"--model={MODEL}", f"--public-key={public}").returncode == 0
    asked = (f"--gate-report={report}", f"--gate-public-key={line(public)}")
    async with served(serve_command(MODEL, "--max-running=4", "--kv-cache-mib=16", *asked), tmp_path):
        pass  # it is ready


async def test_an_embedder_goes_through_and_is_served_with_its_report(tmp_path: Path) -> None:
    golden, report, limits = (tmp_path / name for name in ("golden.jsonl", "report.json", "limits.json"))
    golden.write_text("\n".join(json.dumps({"text": text}) for text in ("light", "darkness", "a time to plant")))
    limits.write_text('{"memory_growth": 0.5}')  # as above
    done = gated(
        "run", "--task=embed", f"--model={minilm()}", f"--golden={golden}", "--recall-at=1", *SHORT[:4],
        f"--limits={limits}", "--sign-off=a test", f"--json={report}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body = json.loads(report.read_text())["body"]
    assert {check["name"] for check in body["checks"]} == set(Name) - {Name.CAPACITY_KEPT, Name.PAGES_RETURNED}
    assert body["task"] == "embed"
    assert body["quality"]["recall_at_k"] == 1
    assert body["tokens_per_second"] > body["requests_per_second"] > 0
    assert body["peak"]["sent"] > 0
    command = serve_command(minilm(), "--max-running=4", "--task=embed", f"--gate-report={report}")
    async with (
        served(command, tmp_path) as process,
        aiohttp.ClientSession() as session,
        session.get(f"http://{process.http}/metrics") as metrics,
    ):
        assert 'headrace_startup_phase_seconds{phase="gate"}' in await metrics.text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--limits=nowhere.json",), "nowhere.json"),
        (("--task=embed", "--speculative=ngram"), "--speculative: --task=embed chooses no tokens"),
        (("--task=embed", "--baseline=GENERATES"), "was measured with --task=generate, not embed; leave --baseline"),
        (("--baseline=ON_A_GPU",), "was measured on another machine: its gpu is 'NVIDIA H200', here it is None"),
        (("--baseline=BASELINE",), "was measured on another machine: its cpu is 'an abacus'"),
        (("--baseline=EDITED",), "its body is not what its sha256 was made of"),
        (("--key=missing.pem",), "missing.pem"),
        (("--speculative-tokens=2",), "--speculative-tokens: nothing is guessed without --speculative; add it"),
        (("--speculative=draft",), "--draft-model: --speculative=draft needs one; name its folder"),
        (("--speculative=draft", "--draft-model=nowhere"), "nowhere"),
        (("--tasks=verses", "--lm-eval=no-such-program"), "--lm-eval=no-such-program: is no program"),
        (("--json=nowhere/report.json",), "--json=nowhere/report.json: nowhere is no folder"),
        (("--json=FOLDER",), "cannot be written to; name another file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    golden, baseline, edited = (tmp_path / name for name in ("golden.jsonl", "baseline.json", "edited.json"))
    golden.write_text('{"text": "light"}')
    report = sealed({"machine": {"cpu": "an abacus"}}, None)
    baseline.write_text(json.dumps(report))
    edited.write_text(json.dumps(report | {"body": {"machine": machine()}}))
    generates, on_a_gpu = tmp_path / "generates.json", tmp_path / "on_a_gpu.json"
    generates.write_text(json.dumps(sealed({"machine": machine()}, None)))
    on_a_gpu.write_text(json.dumps(sealed({"machine": machine() | {"gpu": "NVIDIA H200"}}, None)))
    files = {"BASELINE": baseline, "EDITED": edited, "FOLDER": tmp_path, "GENERATES": generates, "ON_A_GPU": on_a_gpu}
    given = [f"{option}={files.get(value, value)}" for option, _, value in (word.partition("=") for word in words)]
    done = gated("run", f"--model={MODEL}", f"--golden={golden}", "--sign-off=me", *given)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.fixture
def own_end() -> Iterator[None]:
    """A gate that runs in this process makes of SIGTERM an end of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_end")
def test_a_task_whose_score_fell_fails_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked as `headrace evaluate` asks; the gate's own load and models are not what this is about."""
    sides = iter([(Score("verses", "acc", 0.5, True),), (Score("verses", "acc", 0.75, True),)])
    monkeypatch.setattr(harness.Harness, "scores", lambda *_: next(sides))
    golden, report, program = (tmp_path / name for name in ("golden.jsonl", "report.json", "lm-eval"))
    golden.write_text(json.dumps({"prompt": "And God said,", "answer": " Let there be light"}))
    program.touch(mode=0o755)
    parser = argparse.ArgumentParser()
    gate_command.register(parser)
    tasks = ("--tasks=verses", f"--lm-eval={program}")
    options = parser.parse_args(
        ["run", f"--model={MODEL}", f"--golden={golden}", "--sign-off=me", f"--json={report}", *SHORT, *tasks]
    )
    assert options.run(options) == 1
    body = json.loads(report.read_text())["body"]
    assert body["tasks"] == [{"task": "verses", "metric": "acc", "score": 0.5, "base_score": 0.75, "drop": 0.25}]
    assert body["quality_thresholds"]["task_drop"] == 0.02
    [why] = [check["why"] for check in body["checks"] if check["name"] == Name.QUALITY]
    assert "verses acc is 0.5, was 0.75" in why


def test_guesses_are_made_in_the_load_and_told(tmp_path: Path) -> None:
    """By the small model for the larger one."""
    golden, report = tmp_path / "golden.jsonl", tmp_path / "report.json"
    golden.write_text(json.dumps({"prompt": "And God said,", "answer": " Let there be light"}))
    options = ("--batch-invariant", "--no-prefix-cache", "--speculative=draft", "--speculative-tokens=2")
    done = gated(
        "run", f"--model={MODEL.with_name('scripture-5m')}", f"--golden={golden}", *SHORT, *options,
        f"--draft-model={MODEL}", "--sign-off=me", f"--json={report}",
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    body = json.loads(report.read_text())["body"]
    assert {*options, "--speculative-max-batch=auto"} < set(body["serve_options"])
    assert body["draft_model_digest"] == model_digest(MODEL)


def test_a_draft_model_that_cannot_guess_ends_the_gate_with_the_servers_own_words(tmp_path: Path) -> None:
    golden, draft = tmp_path / "golden.jsonl", tmp_path / "draft"
    golden.write_text(json.dumps({"prompt": "And God said,", "answer": " Let there be light"}))
    shutil.copytree(MODEL, draft)
    save_tiny_tokenizer(draft)
    done = gated(
        "run", f"--model={MODEL}", f"--golden={golden}", *SHORT, "--speculative=draft", f"--draft-model={draft}",
        "--sign-off=me",
    )  # fmt: skip
    assert done.returncode == 2
    assert "its tokenizer.json gives tokens other ids than the model's" in done.stderr


SERVE = (f"--model={MODEL}", "--name=gate", "--device=cpu", "--dtype=float32", "--max-running=4", "--kv-cache-mib=16")


async def test_a_server_that_ends_under_the_load_is_told_at_once_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"(?s)the server ended with status -9: .*listening"):
        await _with_a_server_that_ends(tmp_path / "server.log")


async def _with_a_server_that_ends(log: Path) -> None:
    async with asyncio.timeout(60), server_process.serving(SERVE, log) as server:
        [process] = [each for each in psutil.Process().children() if "--name=gate" in each.cmdline()]
        await play.steady(server, 5.0, 90.0, lambda _: process.kill())


async def test_a_server_that_is_not_ready_in_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "PATIENCE", 0.1)
    with pytest.raises(ModelRefused, match="the server was not ready after 0 s"):
        async with server_process.serving(SERVE, tmp_path / "server.log"):
            pytest.fail("it was ready")
