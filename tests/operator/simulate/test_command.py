"""`headrace simulate` and `headrace replay` as a person calls them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from headrace_operator.cli import main
from headrace_operator.simulate.catalogue import poisson
from headrace_operator.simulate.engine import Engine

ROW = {
    "name", "slo_miss_share", "wait_p50_s", "wait_p95_s", "wait_p99_s", "replica_hours", "work_bound_ratio",
    "reversals", "peak_replicas",
}  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    requests = poisson(lambda now: 20.0, lambda now: 5.0, 120.0, 1)
    lines = [
        json.dumps({"timestamp": r.at * 1000, "input_length": r.prompt, "output_length": r.generated}) for r in requests
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_rows_are_in_the_common_form(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "headrace,hpa-waiting,hpa-concurrency,hpa-queue-wait,kpa,keda,ray,wva-v1,wva-v2,dynamo,aibrix,oracle,static:5"
    )
    assert main(["simulate", "--trace", str(trace), "--policy", names, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == names.split(",")
    assert told.keys() == {"machine", "work", "rows"}
    assert all(row.keys() >= ROW for row in told["rows"])
    assert all(0 <= row["slo_miss_share"] <= 1 and row["work_bound_ratio"] >= 1 for row in told["rows"])
    assert told["rows"][-1]["peak_replicas"] == 5


@pytest.mark.parametrize("suffix", ["svg", "html", "png"])
def test_a_plot_is_written(trace: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / f"picture.{suffix}"
    assert main(["simulate", "--trace", str(trace), "--policy", "static:4", "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 500
    assert "static:4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policy", "best"], "--policy 'best' is not known; there are headrace"),
        (["--policy", "static:0"], "static:N with N above 0"),
        (["--plot", "picture.gif"], "must end in .html, .svg or .png"),
        (["--min-replicas", "9", "--max-replicas", "8"], "--min-replicas 9 must not exceed --max-replicas 8"),
        (["--scale", "0.000001"], "leaves no request"),
        (["--from", "2h"], "no request in the part"),
        (["--replica", "missing.json"], "missing.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(
    trace: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--trace", str(trace), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"speed": 1}', "speed is not known; there are hand_over"),
        ('{"slots": 0}', "slots must be a whole number of at least 1, not 0"),
        ('{"phases": 3}', "phases must be a list"),
        ("[]", "must be an object"),
    ],
)
def test_a_bad_replica_model_names_the_field(
    trace: Path, tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "replica.json"
    model.write_text(text)
    assert main(["simulate", "--trace", str(trace), "--replica", str(model)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("nest", [lambda engine: engine, lambda engine: {"machine": {}, "work": {"engine": engine}}])
def test_a_fitted_replica_is_read_as_the_benchmark_wrote_it(
    trace: Path, tmp_path: Path, nest: Callable[[object], object], capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = tmp_path / "fitted.json"
    fitted.write_text(json.dumps(nest(asdict(replace(Engine(), overhead=1.0, hand_over=0.25)))))
    assert (
        main(["simulate", "--trace", str(trace), "--policy", "static:4", "--replica", str(fitted), "--json", "-"]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["wait_p50_s"] >= 0.25
