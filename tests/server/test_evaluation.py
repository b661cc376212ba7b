"""Is a model worse than another one: what is read, what is measured, and what is too much."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.evaluate_command import register, run, tokenised
from headrace_server.evaluation import (
    BadFile,
    Golden,
    Quality,
    Thresholds,
    read_golden,
    read_thresholds,
    regressions,
)
from headrace_server.model.quality.answers import judged
from headrace_server.model.quality.embeddings import recall
from headrace_server.rpc.text import load_text
from minilm import minilm
from tiny_tokenizer import save_tiny_tokenizer

EQUAL = Quality(1, 10, 20.0, 20.0, 0.0, 0.0, 1.0, 0.0)
SHIPPED = Path(__file__).parents[2] / "examples" / "models"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (EQUAL, []),
        (replace(EQUAL, perplexity_increase=0.01), []),
        (replace(EQUAL, perplexity_increase=0.02), ["perplexity_increase is 0.02, at most 0.01 is allowed"]),
        (replace(EQUAL, perplexity_increase=-0.5), []),
        (replace(EQUAL, token_agreement=0.5), ["token_agreement is 0.5, at least 0.9 is allowed"]),
        (replace(EQUAL, kl=1.0, nats_lost=0.2), ["nats_lost is 0.2, at most 0.05", "kl is 1, at most 0.05"]),
        (replace(EQUAL, kl=math.nan), ["kl is nan, at most 0.05 is allowed"]),
    ],
)
def test_what_is_worse(found: Quality, says: list[str]) -> None:
    said = regressions(found, Thresholds())
    assert len(said) == len(says)
    assert all(part in whole for part, whole in zip(says, said, strict=True))


def test_thresholds_of_a_file_are_some_of_them(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text('{"kl": 0.5}')
    assert read_thresholds(path) == replace(Thresholds(), kl=0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object of some of cosine, kl"),
        ('{"perplexity": 1}', "perplexity is not known; known: cosine"),
        ('{"kl": "1"}', "kl is '1'; must be a number"),
        ('{"kl": true}', "kl is True; must be a number"),
    ],
)
def test_what_are_no_thresholds(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(BadFile, match=says):
        read_thresholds(tmp_path / "t")


def test_golden_lines_are_texts_or_prompts_with_answers(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text('{"text": "a b"}\n\n{"prompt": "a", "answer": " b"}\n')
    assert read_golden(path) == (Golden("", "a b"), Golden("a", " b"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no texts"),
        ("a", "line 1: is not JSON"),
        ("[]", "line 1: must be a JSON object with text, or with prompt and answer"),
        ('{"text": ""}', "line 1: text is ''; must be a text, and not an empty one"),
        ('{"prompt": "a"}', "line 1: answer is None"),
    ],
)
def test_what_are_no_golden_lines(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "g").write_text(text)
    with pytest.raises(BadFile, match=says):
        read_golden(tmp_path / "g")


def test_a_long_text_is_read_in_parts_and_each_token_counts_once() -> None:
    ids = tuple(range(20))
    parts = judged([Golden("", "x")], lambda one: (ids, 1), most=8)
    counted = [token for part in parts for token in part.ids[part.begin :]]
    assert counted == list(range(1, 20))
    assert all(len(part.ids) <= 8 for part in parts)
    behind_a_prompt = judged([Golden("p", "x")], lambda one: (ids, 12), most=8)
    assert [token for part in behind_a_prompt for token in part.ids[part.begin :]] == list(range(12, 20))
    assert judged([Golden("p", "x")], lambda one: ((1, 2), 2), most=8) == []


def test_only_the_answers_tokens_count() -> None:
    text = load_text(SHIPPED / "scripture-1m")
    ids, begin = tokenised(text, Golden("And God said, Let there be light:", " and there was light."), end=0)
    assert text.decode(ids[begin:]) == " and there was light."
    whole, first = tokenised(text, Golden("", "In the beginning"), end=0)
    assert (whole[0], whole[-1], first) == (0, 0, 1)
    assert text.decode(whole) == "In the beginning"


def test_recall_is_the_share_of_neighbours_that_both_find() -> None:
    theirs = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    assert recall(theirs, theirs, 1) == 1.0
    ours = theirs[[0, 2, 1, 3]]
    assert recall(ours, theirs, 1) == 0.0


class TestTheCommand:
    @pytest.fixture(scope="class")
    @staticmethod
    def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("model")
        write_checkpoint(directory, vocab_size=320, intermediate_size=128)
        save_tiny_tokenizer(directory)
        return directory

    @pytest.fixture
    @staticmethod
    def golden(tmp_path: Path) -> Path:
        path = tmp_path / "golden.jsonl"
        lines = [{"text": "hello world " * 40}, {"prompt": "hello", "answer": " world hello"}]
        path.write_text("\n".join(map(json.dumps, lines)))
        return path

    @staticmethod
    def evaluate(*words: object) -> int:
        parser = argparse.ArgumentParser()
        register(parser)
        return run(parser.parse_args([str(word) for word in words]))

    def test_a_model_is_as_good_as_itself(self, model: Path, golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.evaluate("--model", model, "--golden", golden, "--json", "-") == 0
        result = json.loads(capsys.readouterr().out)
        assert result["regressions"] == []
        assert (result["quality"]["perplexity_increase"], result["quality"]["token_agreement"]) == (0, 1)
        assert result["quality"]["kl"] == pytest.approx(0, abs=1e-6)

    def test_fewer_bits_are_measured_against_the_same_model(
        self, model: Path, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        strict = tmp_path / "strict.json"
        strict.write_text('{"kl": 0.0, "token_agreement": 1.0, "nats_lost": -9, "perplexity_increase": -1}')
        words = ("--model", model, "--golden", golden, "--thresholds", strict, "--quantization", "int8")
        assert self.evaluate(*words, "--kv-cache-dtype", "int8") == 1
        assert "kl is " in capsys.readouterr().out

    def test_a_model_whose_answers_depend_on_nobody_is_judged_with_its_own_kernels(
        self, model: Path, golden: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.evaluate("--model", model, "--golden", golden, "--batch-invariant", "--json", "-") == 0
        assert json.loads(capsys.readouterr().out)["quality"]["kl"] == pytest.approx(0, abs=1e-6)

    def test_another_model_is_worse_and_the_perplexities_are_those_of_transformers(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = write_checkpoint(tmp_path / "other", seed=1, vocab_size=320, intermediate_size=128)
        save_tiny_tokenizer(other.directory)
        golden = tmp_path / "golden.jsonl"
        golden.write_text(json.dumps({"text": "hello world " * 10}))
        assert self.evaluate("--model", other.directory, "--against", model, "--golden", golden, "--json", "-") == 1
        found = json.loads(capsys.readouterr().out)["quality"]
        ids, begin = tokenised(load_text(model), Golden("", "hello world " * 10), end=2)
        row = torch.tensor([ids])
        with torch.inference_mode():
            logprobs = other.reference(row).logits[0, :-1].log_softmax(dim=-1)
        nats = -logprobs.gather(1, row[0, 1:].unsqueeze(1))[begin - 1 :].mean()
        assert found["perplexity"] == pytest.approx(nats.exp().item(), rel=1e-4)
        assert found["tokens"] == len(ids) - begin

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("--golden", "nowhere.jsonl"), "nowhere.jsonl"),
            (("--model", "nowhere"), "nowhere is not a directory"),
            (("--quantization", "int4", "--quantization-group-size", "7"), "a group of 7 weights"),
            (("--against", SHIPPED / "scripture-1m"), "have different tokenizers"),
            (("--batch-invariant", "--dtype", "float16"), "--batch-invariant has no kernels for torch.float16"),
            (("--batch-invariant", "--task", "embed"), "--batch-invariant is for --task=generate, not embed"),
        ],
    )
    def test_what_cannot_be_compared_is_status_2(
        self, model: Path, golden: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], says: str
    ) -> None:
        assert self.evaluate("--model", model, "--golden", golden, *words) == 2
        assert says in capsys.readouterr().err

    def test_embedders_are_compared_by_their_vectors_and_neighbours(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        golden = tmp_path / "golden.jsonl"
        lines = (SHIPPED / "golden.jsonl").read_text().splitlines()[:6]
        golden.write_text("\n".join(json.dumps({"text": json.loads(line)["text"][:200]}) for line in lines))
        words = ("--task", "embed", "--model", minilm(), "--golden", golden, "--dtype", "bfloat16", "--recall-at", "2")
        assert self.evaluate(*words, "--json", "-") == 0
        found = json.loads(capsys.readouterr().out)["quality"]
        assert found["cosine"] > 0.999
        assert found["least_cosine"] <= found["cosine"]
        assert 0.9 <= found["recall_at_k"] <= 1
        assert self.evaluate(*words, "--recall-at", "9") == 2
