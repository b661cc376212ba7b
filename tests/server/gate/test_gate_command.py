"""The gate from end to end: a real model, a real server process, seconds instead of minutes."""

import json
import subprocess
from pathlib import Path

import pytest
from headrace_server.gate.checks import Name
from served_process import HEADRACE, environment

MODEL = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"


def gated(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(HEADRACE), "gate", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.timeout(240)
def test_a_model_goes_through_and_its_report_is_believed(tmp_path: Path) -> None:
    golden, report = tmp_path / "golden.jsonl", tmp_path / "report.json"
    golden.write_text(json.dumps({"prompt": "And God said,", "answer": " Let there be light"}))
    limits = tmp_path / "limits.json"
    limits.write_text('{"memory_growth": 0.5}')  # in seconds, memory that is used for the first time looks like a leak
    short = ("--minutes=0.03", "--peak-minutes=0.03", "--capacity-minutes=0.03", "--max-running=4", "--kv-cache-mib=16")
    done = gated(
        "run", f"--model={MODEL}", f"--golden={golden}", *short, f"--limits={limits}", "--sign-off=a test",
        f"--json={report}",
    )  # fmt: skip
    body = json.loads(report.read_text())["body"]
    assert done.returncode == (0 if body["passed"] else 1), done.stderr
    checks = {check["name"]: check for check in body["checks"]}
    assert set(checks) == set(Name) - {Name.CAPACITY_KEPT}
    assert body["passed"], body["checks"]
    assert body["signed_off_by"] == "a test"
    assert body["tokens_per_second"] > 0
    assert body["peak"]["rate"] == pytest.approx(1.5 * body["requests_per_second"])
    assert gated("verify", str(report), f"--model={MODEL}").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--limits=nowhere.json",), "nowhere.json"),
        (("--task=embed",), "the gate plays load on models that generate only"),
        (("--baseline=BASELINE",), "was measured on another machine: its cpu is 'an abacus'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    golden, baseline = tmp_path / "golden.jsonl", tmp_path / "baseline.json"
    golden.write_text('{"text": "light"}')
    baseline.write_text(json.dumps({"body": {"machine": {"cpu": "an abacus"}}, "sha256": ""}))
    given = [word.replace("BASELINE", str(baseline)) for word in words]
    done = gated("run", f"--model={MODEL}", f"--golden={golden}", "--sign-off=me", *given)
    assert done.returncode == 2
    assert says in done.stderr
