"""A recorded status decides the same again, and by another policy something else."""

import json
from pathlib import Path
from typing import Any

import pytest
from fluid import Fluid
from headrace_operator.cli import main
from headrace_operator.decide.history import History
from headrace_operator.decide.status import Tick, status
from observations import deployment, scaling

KNOWN = History(capacity=100.0, work_per_request=100.0)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """After an eightfold step."""
    run = Fluid(deployment(scaling=scaling()), lambda now: 8.0 if now > 60 else 1.0, history=KNOWN).run(100)
    tick = Tick(run.deployment, "image", run.observed(), run.decisions[-1][1], run.history, run.now)
    told: dict[str, Any] = json.loads(json.dumps(status(tick, {})))
    return told


def test_a_record_gives_the_same_decision(
    recorded: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"kind": "InferenceDeployment", "status": recorded}))
    assert main(["replay", str(path), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["record"] == "lastDecision"
    assert all(row["agrees"] for row in rows)


def test_another_policy_decides_otherwise(
    recorded: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps(recorded))
    assert main(["replay", str(path), "--set", "maxReplicas=3", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["to"] > rows[0]["computed"]["to"] == 3


def test_an_edited_record_is_found(
    recorded: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**recorded, "lastDecision": {**recorded["lastDecision"], "to": 99}}))
    assert main(["replay", str(path)]) == 3
    assert "NO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("{}", [], "has no lastDecision"),
        ("[", [], "cannot be read"),
        ('{"lastDecision": {}}', ["--set", "speed=3"], "'speed' is not known"),
        ('{"lastDecision": {}}', ["--set", "maxReplicas=many"], "'many' is no int"),
        ('{"lastDecision": {"to": 3}}', [], "inputs are not as this version"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, text: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "status.json"
    path.write_text(text)
    assert main(["replay", str(path), *words]) == 2
    assert told in capsys.readouterr().err
