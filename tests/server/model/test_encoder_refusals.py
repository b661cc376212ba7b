"""What a checkpoint may say of itself, and what is refused because its vectors would be wrong without a word."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from headrace_server.embedding import Pooling
from headrace_server.errors import ModelRefused
from headrace_server.model.encoder.sentence import Sentence, read_sentence
from headrace_server.model.encoder.shape import read_shape

BERT = {
    "architectures": ["BertModel"],
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
TRANSFORMER, POOLING, NORMALIZE = (
    {"path": path, "type": f"sentence_transformers.models.{name}"}
    for path, name in (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
)
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
MEAN = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8}
FILES: dict[str, Any] = {"modules.json": [TRANSFORMER, POOLING], "1_Pooling/config.json": MEAN}


def written(directory: Path, files: Mapping[str, Any]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Sentence(Pooling.MEAN, False, None, False)),
        ({"modules.json": [TRANSFORMER, POOLING, NORMALIZE]}, Sentence(Pooling.MEAN, True, None, False)),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, Sentence(Pooling.CLS, False, None, False)),
        ({"1_Pooling/config.json": {"pooling_mode": "lasttoken"}}, Sentence(Pooling.LAST, False, None, False)),
        ({"sentence_bert_config.json": {"max_seq_length": 9}}, Sentence(Pooling.MEAN, False, 9, False)),
        ({"sentence_bert_config.json": {"do_lower_case": True}}, Sentence(Pooling.MEAN, False, None, True)),
    ],
    ids=["mean", "normalised", "CLS", "as version 6 writes it", "a shorter context", "lower case"],
)
def test_the_files_of_sentence_transformers_are_read(
    tmp_path: Path, change: Mapping[str, Any], expected: Sentence
) -> None:
    assert read_sentence(written(tmp_path, FILES | change), 8) == expected


def test_without_them_the_mean_is_taken_as_sentence_transformers_does(tmp_path: Path) -> None:
    assert read_sentence(tmp_path, 8) == Sentence(Pooling.MEAN, False, None, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modules.json": [TRANSFORMER, POOLING, DENSE]}, "lists Transformer, Pooling, Dense; supported"),
        ({"modules.json": [TRANSFORMER]}, "lists Transformer; supported"),
        ({"modules.json": {"type": "x"}}, "is not sentence-transformers' list of modules"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "pooling_mode is max; supported"),
        ({"1_Pooling/config.json": MEAN | {"pooling_mode_cls_token": True}}, "is mean, cls; supported"),
        ({"1_Pooling/config.json": {}}, "pooling_mode is none; supported"),
        ({"1_Pooling/config.json": MEAN | {"include_prompt": False}}, "include_prompt is false"),
        ({"1_Pooling/config.json": MEAN | {"word_embedding_dimension": 9}}, "is 9, and the model's hidden_size is 8"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "query"}}, "default_prompt_name is query"),
        ({"sentence_bert_config.json": {"max_seq_length": 0}}, "max_seq_length is 0"),
    ],
)
def test_what_would_change_the_vectors_is_refused(tmp_path: Path, change: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ModelRefused, match=words):
        read_sentence(written(tmp_path, FILES | change), 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["MPNetModel"]}, "names MPNetModel; supported: BertModel, RobertaModel, XLMRobertaModel"),
        ({"architectures": []}, "names nothing"),
        ({"hidden_act": "relu"}, "hidden_act is relu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"quantization_config": {}}, "quantization_config is set"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3, which does not divide"),
        ({"architectures": ["RobertaModel"], "pad_token_id": 11}, "pad_token_id is 11"),
    ],
)
def test_a_shape_that_is_not_built_is_refused(tmp_path: Path, change: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ModelRefused, match=words):
        read_shape(written(tmp_path, {"config.json": BERT | change}))


def test_a_roberta_has_as_many_tokens_as_positions_are_left(tmp_path: Path) -> None:
    roberta = BERT | {"architectures": ["XLMRobertaModel"], "pad_token_id": 1}
    assert read_shape(written(tmp_path, {"config.json": roberta})).max_tokens == 10
