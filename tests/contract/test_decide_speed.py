"""bench/decide_speed.py measures every look, and who looks decides the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "bench/decide_speed.py", *arguments, "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["rows"]


def test_looks_are_counted_and_decide_the_same_in_one_process_and_in_many() -> None:
    rows = measured("--deployments", "5", "--ticks", "40")
    assert [(row["deployments"], row["ticks"]) for row in rows] == [(5, 40)] * len(rows)
    assert all(0 < row["decisions_seconds"] < row["elapsed_seconds"] for row in rows)
    assert len({row["decisions"] for row in rows}) == 1
    assert measured("--deployments", "6", "--ticks", "40")[0]["decisions"] != rows[0]["decisions"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="compiling the decision needs a C compiler")
def test_the_compiled_decision_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPYC_OPT_LEVEL", "0")  # which is compiled sooner
    rows = measured("--compiled", "--deployments", "5", "--ticks", "100")
    assert {row["compiled"] for row in rows} == {False, True}
    assert len({row["decisions"] for row in rows}) == 1


def test_nothing_is_not_measured() -> None:
    command = [sys.executable, "bench/decide_speed.py", "--ticks", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--ticks must be" in done.stderr
