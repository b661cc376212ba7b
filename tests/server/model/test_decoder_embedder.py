"""Decoders that embed: the last token's hidden state, of every family, against transformers."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import LLAMA3_ROPE, edit_config, write_checkpoint
from headrace_server.embedding import Pooling
from headrace_server.errors import ModelRefused
from minilm import loaded
from tiny_tokenizer import save_tiny_tokenizer

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "Mistral, with a window": ("mistral", {"sliding_window": 13}),
    "Qwen2, with biases": ("qwen2", {}),
    "Qwen3, with norms of heads": ("qwen3", {"head_dim": 16}),
}


def sentence_files(directory: Path) -> None:
    """As sentence-transformers writes them for a decoder."""
    save_tiny_tokenizer(directory)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))


@pytest.mark.parametrize(("family", "fields"), FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("body", [False, True], ids=["with its output matrix", "saved without one"])
def test_the_last_tokens_state_is_the_vector(tmp_path: Path, family: str, fields: dict[str, Any], body: bool) -> None:
    checkpoint = write_checkpoint(tmp_path, family, **fields)
    if body:
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
        checkpoint.reference.model.save_pretrained(tmp_path)
    sentence_files(tmp_path)
    chance = random.Random(1)
    texts = [[chance.randrange(3, 320) for _ in range(length)] for length in (1, 40, 7, 200)]

    model = loaded(tmp_path)
    found = torch.from_numpy(model.lanes[0].launch(texts).wait().vectors)

    assert (model.facts.pooling, model.facts.normalises, model.facts.max_tokens) == (Pooling.LAST, True, 256)
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            expected = checkpoint.reference.model(torch.tensor([text])).last_hidden_state[0, -1]
        assert torch.cosine_similarity(vector, expected, dim=0) >= 0.99999


def test_a_decoder_without_word_of_its_pooling_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    save_tiny_tokenizer(tmp_path)
    with pytest.raises(ModelRefused, match="nothing says how this decoder makes a vector"):
        loaded(tmp_path)


def test_one_that_looks_both_ways_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    sentence_files(tmp_path)
    edit_config(tmp_path, is_causal=False)
    with pytest.raises(ModelRefused, match="is_causal is false"):
        loaded(tmp_path)
