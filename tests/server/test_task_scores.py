"""Scores of lm-eval's tasks: read as lm-eval 0.4.13 wrote them, compared, and asked of models that are served."""

import argparse
import json
import math
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from headrace_server import harness
from headrace_server.errors import ModelRefused
from headrace_server.evaluate_command import register, run
from headrace_server.task_scores import Compared, Score, compared, read_scores, regressions
from tiny_tokenizer import save_tiny_tokenizer

# Of a real run of examples/evaluation; what is left out says how it was run.
RESULTS = {
    "results": {
        "verses": {"name": "verses", "alias": "verses", "sample_len": 4, "acc,none": 1.0, "acc_stderr,none": 0.0},
        "verses_perplexity": {
            "name": "verses_perplexity",
            "alias": "verses_perplexity",
            "sample_len": 4,
            "byte_perplexity,none": 2.1084028665254184,
            "byte_perplexity_stderr,none": "N/A",
        },
    },
    "higher_is_better": {"verses": {"acc": True}, "verses_perplexity": {"byte_perplexity": False}},
}
# Stands for lm-eval, whose environment has 500 MB: asks the server that it is told of, and scores one answer by length.
PROGRAM = f"""#!{sys.executable}
import json, sys, urllib.request
from pathlib import Path
words = sys.argv[1:]
told = dict(zip(words[1::2], words[2::2]))
arguments = dict(pair.split("=", 1) for pair in told["--model_args"].split(","))
body = {{"model": arguments["model"], "prompt": "In the beginning", "max_tokens": 4, "temperature": 0}}
said = {{"Content-Type": "application/json"}}
request = urllib.request.Request(arguments["base_url"], json.dumps(body).encode(), said)
answer = json.load(urllib.request.urlopen(request))
(folder := Path(told["--output_path"], "evaluated")).mkdir(parents=True)
results = {{told["--tasks"]: {{"alias": "x", "acc,none": 1 / answer["usage"]["completion_tokens"]}}}}
better = {{told["--tasks"]: {{"acc": True}}}}
(folder / "results_2026.json").write_text(json.dumps({{"results": results, "higher_is_better": better}}))
"""


def test_scores_are_read_with_the_direction_that_is_better() -> None:
    assert read_scores(RESULTS) == (
        Score("verses", "acc", 1.0, True),
        Score("verses_perplexity", "byte_perplexity", 2.1084028665254184, False),
    )
    strict = {"results": {"maths": {"exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1}}}
    assert read_scores(strict) == (Score("maths", "exact_match,strict", 0.5, None),)


@pytest.mark.parametrize(
    ("ours", "base", "better", "drop"),
    [
        (0.70, 0.72, True, 0.02),
        (0.74, 0.72, True, -0.02),
        (2.2, 2.0, False, 0.1),
        (1.9, 2.0, False, -0.05),
        (0.1, 0.0, False, 0.1),
        (0.1, 0.9, None, None),
    ],
)
def test_a_drop_is_in_points_or_in_shares_of_what_should_be_small(
    ours: float, base: float, better: bool | None, drop: float | None
) -> None:
    (found,) = compared([Score("t", "m", ours, better)], [Score("t", "m", base, better)])
    assert found == Compared("t", "m", ours, base, drop if drop is None else pytest.approx(drop))


def test_more_than_the_threshold_is_worse_and_so_is_no_number() -> None:
    found = [Compared("t", name, 0.5, 0.5 + drop, drop) for name, drop in (("a", 0.02), ("b", 0.03), ("c", math.nan))]
    assert [said.split()[1] for said in regressions([*found, Compared("t", "d", 0.0, 1.0, None)], 0.02)] == ["b", "c"]


def test_tasks_that_only_one_model_answered_are_not_compared() -> None:
    with pytest.raises(ValueError, match="only one of both models has a score for"):
        compared([Score("t", "m", 1.0, True)], [])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (model := tmp_path / "tiny").mkdir()
    write_checkpoint(model, vocab_size=320, intermediate_size=128)
    save_tiny_tokenizer(model)
    return model


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (program := tmp_path / "lm-eval").write_text(PROGRAM)
    program.chmod(0o755)
    return program


def evaluate(tmp_path: Path, model: Path, *words: str) -> int:
    (golden := tmp_path / "golden.jsonl").write_text(json.dumps({"text": "In the beginning God created"}))
    parser = argparse.ArgumentParser()
    register(parser)
    return run(parser.parse_args([f"--model={model}", f"--golden={golden}", *words]))


def test_a_model_is_served_and_asked(tiny: Path, program: Path) -> None:
    told: list[str] = []
    asks = harness.found(str(program), "verses", None)
    (score,) = asks.scores([f"--model={tiny}", "--device=cpu", "--dtype=float32"], told.append)
    assert (score.task, score.metric, score.higher_is_better) == ("verses", "acc", True)
    assert score.value > 0
    assert told[0].startswith("verses of the model at 127.0.0.1:")


def test_a_model_that_cannot_be_served_says_why(tmp_path: Path, program: Path) -> None:
    asks = harness.found(str(program), "verses", None)
    with pytest.raises(ModelRefused, match=r"(?s)the server ended with status .*config\.json"):
        asks.scores([f"--model={tmp_path}", "--device=cpu", "--dtype=float32"], lambda _: None)


@pytest.mark.parametrize(("ours", "status"), [(0.75, 0), (0.5, 1)])
def test_a_score_that_fell_is_a_regression(
    tiny: Path, program: Path, monkeypatch: pytest.MonkeyPatch, ours: float, status: int
) -> None:
    """Two servers for each case would take half a minute; the one above is real."""
    sides = iter([(Score("verses", "acc", ours, True),), (Score("verses", "acc", 0.75, True),)])
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(harness.Harness, "scores", lambda _, serve, __: asked.append(tuple(serve)) or next(sides))
    place = tiny.parent / "result.json"
    words = ("--tasks=verses", f"--lm-eval={program}", f"--json={place}", "--kv-cache-dtype=int8")
    (loose := tiny.parent / "thresholds.json").write_text('{"token_agreement": 0, "kl": 9, "perplexity_increase": 9}')
    assert evaluate(tiny.parent, tiny, *words, f"--thresholds={loose}") == status
    result = json.loads(place.read_text())
    assert result["tasks"] == [
        {"task": "verses", "metric": "acc", "score": ours, "base_score": 0.75, "drop": 0.75 - ours}
    ]
    assert result["thresholds"]["task_drop"] == 0.02
    assert len(result["regressions"]) == status
    assert ["--kv-cache-dtype=int8" in words for words in asked] == [True, False]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tasks=verses", "--lm-eval=no-such-program"], "--lm-eval=no-such-program: is no program"),
        (["--tasks=verses", "--lm-eval=false", "--task-files=no-such-folder"], "no-such-folder: is no folder"),
        (["--tasks=verses", "--lm-eval=false", "--task=embed"], "--tasks: a model with --task=embed answers none"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert evaluate(tmp_path, tmp_path, *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "loading" not in said


def test_without_the_harness_the_message_says_where_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert evaluate(tmp_path, tmp_path, "--tasks=verses") == 2
    assert "requirements/peers-lm-eval.txt" in capsys.readouterr().err
