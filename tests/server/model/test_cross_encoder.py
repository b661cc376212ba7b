"""Scores of pairs against transformers' and sentence-transformers', and what a checkpoint may say of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import edit_config
from cross_encoders import write_cross_encoder
from headrace_server.config import Task
from headrace_server.embedding import Judges, Pair, Pooling
from headrace_server.errors import ModelRefused
from headrace_server.model.encoder.cross import Cross, read_cross
from headrace_server.model.encoder.loading import LoadedEmbedder
from minilm import loaded, minilm
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

QUERY = "Where does the water go?"
DOCUMENTS = ["To the wheel.", "Stones do not move by themselves " * 4, "a [SEP] b", "Grüße"]


def ours(model: LoadedEmbedder, pairs: list[Pair], *, together: bool = True) -> list[float]:
    ids = model.tokens.encode(pairs, truncate=True)
    batches = [ids] if together else [[one] for one in ids]
    return [float(row[0]) for batch in batches for row in model.lanes[0].launch(batch).wait().vectors]


@pytest.mark.parametrize("roberta", [False, True], ids=["BERT, two types of tokens", "XLM-RoBERTa, one"])
def test_scores_are_those_of_transformers(tmp_path: Path, roberta: bool) -> None:
    reference = write_cross_encoder(tmp_path, roberta=roberta)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = loaded(tmp_path, task=Task.RERANK)
    expected = []
    for document in DOCUMENTS:
        fed = tokenizer(QUERY, document, return_tensors="pt", truncation=True, max_length=model.facts.max_tokens)
        if roberta:
            fed["token_type_ids"] = torch.zeros_like(fed["token_type_ids"])
        with torch.inference_mode():
            expected.append(float(reference(**fed).logits[0, 0]))
    pairs = [Pair(QUERY, document) for document in DOCUMENTS]
    assert np.ptp(expected) > 0.05, "scores that hardly differ would show nothing"
    assert ours(model, pairs) == pytest.approx(expected, abs=1e-4)
    assert ours(model, pairs, together=False) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("bounds", [True, False], ids=["sigmoid, its default", "identity"])
def test_scores_are_those_of_sentence_transformers(tmp_path: Path, bounds: bool) -> None:
    write_cross_encoder(tmp_path)
    if not bounds:
        edit_config(tmp_path, sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    model = loaded(tmp_path, task=Task.RERANK)
    assert model.facts.bounds_scores is bounds
    oracle = CrossEncoder(str(tmp_path), device="cpu", max_length=model.facts.max_tokens)
    expected = np.asarray(oracle.predict([(QUERY, document) for document in DOCUMENTS]))
    logits = np.array(ours(model, [Pair(QUERY, document) for document in DOCUMENTS]))
    found = 1 / (1 + np.exp(-logits)) if bounds else logits
    assert found == pytest.approx(expected, abs=1e-4)


def test_bfloat16_keeps_the_order(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path)
    pairs = [Pair(QUERY, document) for document in DOCUMENTS]
    exact, near = (
        ours(loaded(tmp_path, task=Task.RERANK), pairs),
        ours(loaded(tmp_path, "bfloat16", Task.RERANK), pairs),
    )
    assert np.argsort(near).tolist() == np.argsort(exact).tolist()
    assert near == pytest.approx(exact, abs=0.05)


def test_the_facts_say_that_it_judges_pairs(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path)
    facts = loaded(tmp_path, task=Task.RERANK).facts
    assert (facts.judges, facts.dimensions, facts.max_tokens, facts.pooling) == (Judges.TOGETHER, 1, 64, Pooling.CLS)


FILES: list[Any] = [
    pytest.param({}, {}, Cross(True, None, False), id="nothing"),
    pytest.param(
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {},
        Cross(False, None, False),
        id="version 3",
    ),
    pytest.param(
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
        Cross(True, None, False),
        id="its own file comes first",
    ),
    pytest.param({}, {"tokenizer_config.json": {"model_max_length": 12}}, Cross(True, 12, False), id="length"),
    pytest.param(
        {},
        {"tokenizer_config.json": {"model_max_length": 12}, "sentence_bert_config.json": {"max_seq_length": 9}},
        Cross(True, 9, False),
        id="its own length",
    ),
    pytest.param({}, {"sentence_bert_config.json": {"do_lower_case": True}}, Cross(True, None, True), id="lower case"),
]


@pytest.mark.parametrize(("config", "files", "expected"), FILES)
def test_what_lies_beside_the_weights_is_read(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], expected: Cross
) -> None:
    for name, content in ({"config.json": config} | files).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_cross(tmp_path) == expected


REFUSED: list[Any] = [
    pytest.param({"id2label": {"0": "no", "1": "yes"}}, {}, "id2label names 2 labels", id="a classifier"),
    pytest.param({"id2label": None}, {}, "id2label names 2 labels", id="two labels are not written"),
    pytest.param(
        {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, {}, "activation_fn is torch.nn.Tanh", id="tanh"
    ),
    pytest.param({}, {"modules.json": [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "1"}]},
                 "lists Transformer, Dense", id="another head"),
    pytest.param({}, {"config_sentence_transformers.json": {"default_prompt_name": "q"}}, "default_prompt_name is q",
                 id="a prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "files", "words"), REFUSED)
def test_what_would_change_the_scores_is_refused(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], words: str
) -> None:
    write_cross_encoder(tmp_path)
    edit_config(tmp_path, **config)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ModelRefused, match=words):
        loaded(tmp_path, task=Task.RERANK)


def test_each_task_refuses_the_others_models(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path)
    with pytest.raises(ModelRefused, match="is a cross-encoder, which ranks: serve it with --task=rerank"):
        loaded(tmp_path)
    with pytest.raises(ModelRefused, match="is no cross-encoder, which --task=rerank serves"):
        loaded(minilm(), task=Task.RERANK)
