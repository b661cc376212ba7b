"""What config.json says to each family, with the fields left out, null, or there for another family only."""

from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_config
from headrace_server.model.architecture import read_architecture

ALL = None  # a query sees all tokens before it
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("family", "fields", "windows"),
    [
        pytest.param("Llama", {"sliding_window": 8}, (ALL, ALL, ALL), id="Llama knows no window"),
        pytest.param("Mistral", {}, (4096, 4096, 4096), id="Mistral has one unless null is said"),
        pytest.param("Mistral", {"sliding_window": None}, (ALL, ALL, ALL), id="null"),
        pytest.param("Mistral", {"sliding_window": 8}, (8, 8, 8), id="one for every layer"),
        pytest.param("Mistral", {"sliding_window": 8, "layer_types": [SLIDING] * 3}, (8, 8, 8), id="said twice"),
        pytest.param("Qwen2", {"sliding_window": 8}, (ALL, ALL, ALL), id="not used unless said"),
        pytest.param("Qwen2", {"use_sliding_window": True}, (ALL, ALL, ALL), id="from layer 28 on unless said"),
        pytest.param(
            "Qwen2", {"use_sliding_window": True, "max_window_layers": 2}, (ALL, ALL, 4096), id="later layers"
        ),
        pytest.param(
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
            (ALL, ALL, ALL),
            id="used and null",
        ),
        pytest.param(
            "Qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 1,
                "layer_types": [SLIDING, FULL, FULL],
            },
            (8, ALL, ALL),
            id="layer_types before max_window_layers",
        ),
    ],
)
def test_windows(tmp_path: Path, family: str, fields: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert read_architecture(write_config(tmp_path, family, **fields)).windows == windows


@pytest.mark.parametrize(
    ("family", "fields", "biases"),
    [
        ("Llama", {}, (False, False, False)),
        ("Llama", {"attention_bias": True, "mlp_bias": True}, (True, True, True)),
        ("Mistral", {"attention_bias": True, "mlp_bias": True}, (False, False, False)),
        ("Qwen2", {}, (True, False, False)),
        ("Qwen2", {"attention_bias": False, "mlp_bias": True}, (True, False, False)),
        ("Qwen3", {}, (False, False, False)),
        ("Qwen3", {"attention_bias": True, "mlp_bias": True}, (True, True, False)),
    ],
)
def test_biases(tmp_path: Path, family: str, fields: dict[str, Any], biases: tuple[bool, bool, bool]) -> None:
    found = read_architecture(write_config(tmp_path, family, **fields))
    assert (found.qkv_bias, found.out_bias, found.mlp_bias) == biases


@pytest.mark.parametrize(
    ("family", "fields", "head_dim"),
    [
        ("Llama", {}, 16),
        ("Mistral", {"head_dim": None}, 16),
        ("Qwen2", {}, 16),
        ("Qwen3", {}, 128),
        ("Qwen3", {"head_dim": 32}, 32),
    ],
)
def test_head_dim(tmp_path: Path, family: str, fields: dict[str, Any], head_dim: int) -> None:
    assert read_architecture(write_config(tmp_path, family, **fields)).head_dim == head_dim


def test_the_first_supported_of_several_architectures_counts(tmp_path: Path) -> None:
    names = ["MyOwnForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"]
    assert read_architecture(write_config(tmp_path, architectures=names)).qk_norm
