"""Rotary positions of every kind, with any parameters, against those of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_config
from headrace_server.model.architecture import read_architecture
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

MAX_POSITION = 256

FACTORS = st.floats(1, 64)
ORIGINALS = st.integers(16, 4096)  # tokens


def kind(name: str, needed: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    always = {"rope_type": st.just(name), "rope_theta": st.floats(100, 1e7)}
    return st.fixed_dictionaries(always | needed, optional=optional)


ROPES = (
    kind("default", {})
    | kind("linear", {"factor": FACTORS})
    | kind("dynamic", {"factor": FACTORS})
    | kind(
        "llama3",
        {"factor": FACTORS, "low_freq_factor": st.floats(0.5, 2), "high_freq_factor": st.floats(2.5, 8)},
        original_max_position_embeddings=ORIGINALS,
    )
    | kind(
        "yarn",
        {"factor": FACTORS},
        original_max_position_embeddings=ORIGINALS,
        attention_factor=st.floats(0.5, 2),
        beta_fast=st.floats(8, 64),
        beta_slow=st.floats(0.5, 4),
        mscale=st.floats(0.1, 2),
        mscale_all_dim=st.floats(0.1, 2),
        truncate=st.booleans(),
    )
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@settings(max_examples=200, deadline=None)
@given(rope=ROPES, head_dim=st.sampled_from([4, 16, 64, 80, 128]))
def test_tables_are_those_of_transformers(directory: Path, rope: dict[str, Any], head_dim: int) -> None:
    ours = read_architecture(write_config(directory, head_dim=head_dim, rope_parameters=rope)).rope
    config = json.loads((directory / "config.json").read_text())
    theirs: Any = LlamaRotaryEmbedding(LlamaConfig(**config))

    torch.testing.assert_close(ours.frequencies(head_dim), theirs.inv_freq, rtol=1e-5, atol=0)
    cos, sin = ours.tables(MAX_POSITION, head_dim, torch.device("cpu"))
    expected_cos, expected_sin = theirs(torch.zeros(1), torch.arange(MAX_POSITION).unsqueeze(0))
    torch.testing.assert_close(cos, expected_cos[0, :, : head_dim // 2], rtol=0, atol=1e-3)
    torch.testing.assert_close(sin, expected_sin[0, :, : head_dim // 2], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="nothing said"),
        pytest.param({"rope_theta": 500.0}, id="theta, before transformers 5"),
        pytest.param({"rope_theta": 500.0, "rope_scaling": None}, id="no scaling, before transformers 5"),
        pytest.param({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, id="type for rope_type"),
        pytest.param(
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            },
            id="both",
        ),
        pytest.param(
            {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 600.0}}, id="theta twice"
        ),
        pytest.param(
            {"original_max_position_embeddings": 32, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            id="the original length beside the rope",
        ),
        pytest.param(
            {
                "original_max_position_embeddings": 32,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            },
            id="the original length twice",
        ),
    ],
)
def test_where_config_says_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    ours = read_architecture(write_config(tmp_path, **fields))
    config = json.loads((tmp_path / "config.json").read_text())
    theirs: Any = LlamaRotaryEmbedding(LlamaConfig(**config))
    torch.testing.assert_close(ours.rope.frequencies(ours.head_dim), theirs.inv_freq, rtol=1e-5, atol=0)
