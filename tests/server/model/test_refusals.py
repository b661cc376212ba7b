"""A checkpoint that cannot be served right is refused before it is served at all, with the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import LLAMA3_ROPE, edit_config, write_checkpoint
from headrace_server.errors import ModelRefused
from headrace_server.model.loading import load_model
from models import a_config, a_model
from safetensors.torch import load_file, save_file

SUPPORTED = "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path).directory


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def only_pickled(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({}, directory / "pytorch_model.bin")


def a_broken_shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    write_checkpoint(directory, max_shard_size="60KB")
    sorted(directory.glob("model-0*.safetensors"))[1].write_bytes(b"hello")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda d: (d / "config.json").unlink(), "config.json is missing", id="no config"),
        pytest.param(lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON", id="a cut config"),
        pytest.param(lambda d: (d / "config.json").write_text("[]"), "holds no JSON object", id="a list as config"),
        pytest.param(lambda d: (d / "model.safetensors").unlink(), "holds no weights; expected", id="no weights"),
        pytest.param(only_pickled, r"pytorch_model\.bin.*safe_serialization=True", id="pickled weights only"),
        pytest.param(
            lambda d: (d / "model.safetensors").write_bytes(b"hello"), "cannot be read as safetensors", id="other bytes"
        ),
        pytest.param(
            lambda d: edit_weights(d, lambda w: w.pop("model.norm.weight")),
            r"lacks 1 tensors that config\.json asks for: model\.norm\.weight",
            id="a missing tensor",
        ),
        pytest.param(
            lambda d: edit_weights(d, lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)})),
            r"has no place for: model\.layers\.0\.self_attn\.q_proj\.bias",
            id="a tensor that would be ignored",
        ),
        pytest.param(
            lambda d: edit_weights(d, lambda w: w.update({"model.norm.weight": torch.zeros(63)})),
            r"model\.norm\.weight has shape \(63,\), config\.json asks for \(64,\)",
            id="a wrong shape",
        ),
        pytest.param(
            lambda d: (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "b.safetensors"}})
            ),
            r"files that are missing: b\.safetensors",
            id="a missing shard",
        ),
        pytest.param(
            lambda d: (d / "model.safetensors.index.json").write_text("{}"), "is not an index", id="an index of nothing"
        ),
        pytest.param(a_broken_shard, r"model-0.*\.safetensors cannot be read as safetensors", id="a broken shard"),
        pytest.param(
            lambda d: edit_weights(d, lambda w: w.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})),
            r"model\.norm\.weight is torch\.int8; give the weights as float32, bfloat16 or float16",
            id="quantized weights",
        ),
    ],
)
def test_what_is_wrong_with_the_files(directory: Path, spoil: Callable[[Path], Any], says: str) -> None:
    spoil(directory)
    with pytest.raises(ModelRefused, match=says):
        a_model(directory)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"architectures": ["MambaForCausalLM"]}, f"names MambaForCausalLM; {SUPPORTED}"),
        ({"architectures": ["MixtralForCausalLM"]}, f"names MixtralForCausalLM; {SUPPORTED}"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, f"names Qwen3MoeForCausalLM; {SUPPORTED}"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, f"names LlavaForConditionalGeneration; {SUPPORTED}"),
        ({"architectures": None}, f"architectures names nothing; {SUPPORTED}"),
        ({"num_local_experts": 8}, "num_local_experts is set; mixtures of experts are not supported"),
        ({"num_experts": 8}, "num_experts is set; mixtures of experts are not supported"),
        ({"vision_config": {}}, "vision_config is set; only text models are served"),
        ({"audio_config": {}}, "audio_config is set; only text models are served"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu; supported: silu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "were quantised by gptq, which is not read"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            "rope_type is longrope; supported: default, linear, dynamic, llama3, yarn",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "factor is missing"),
        (
            {"rope_parameters": LLAMA3_ROPE | {"low_freq_factor": 4.0}},
            r"high_freq_factor is 4\.0; must be above low_freq_factor, which is 4\.0",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1}}, r"rope_theta is 1\.0; must be above 1"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "factor is missing"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": 1}}, "truncate is 1; must be true or"),
        ({"rope_parameters": 7}, "rope_parameters is 7; must be an object"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1; only the rotation of whole heads"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            r"rope_parameters\.full_attention is set; supported: one rope for all layers",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; must be a whole number"),
        ({"num_key_value_heads": 3}, "does not divide num_attention_heads 4"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'; must be a number above 0"),
        ({"head_dim": 15}, "head_dim is 15; rotary positions need an even one"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; must be true or false"),
        ({"eos_token_id": ["</s>"]}, "must be a token id or a list of them"),
    ],
)
def test_what_is_wrong_with_the_config(directory: Path, fields: dict[str, Any], says: str) -> None:
    (directory / "generation_config.json").unlink()
    edit_config(directory, **fields)
    with pytest.raises(ModelRefused, match=says):
        a_model(directory)


@pytest.mark.parametrize(
    ("family", "fields", "says"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window is 0; must be a whole number of at least 1"),
        (
            "mistral",
            {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            "layer_types mixes kinds; with sliding_window 8 every layer is sliding_attention",
        ),
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'; must be true or false"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": "all"}, "sliding_window is 'all'; must be a whole"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for 3 layers"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "has chunked_attention; supported: full_attention, sl"),
        (
            "qwen3",
            {"use_sliding_window": False, "sliding_window": 8, "layer_types": ["sliding_attention"] * 3},
            "layer_types has sliding_attention, which needs use_sliding_window true and a sliding_window",
        ),
        ("qwen3", {"head_dim": 64}, r"q_proj\.weight has shape \(512, 64\), config\.json asks for \(256, 64\)"),
        ("qwen3", {"architectures": ["Qwen2ForCausalLM"], "head_dim": 128}, r"lacks 9 tensors.*k_proj\.bias"),
        ("qwen2", {"architectures": ["LlamaForCausalLM"]}, r"no place for: model\.layers\.0\.self_attn\.k_proj\.bias"),
    ],
)
def test_what_is_wrong_with_a_family(tmp_path: Path, family: str, fields: dict[str, Any], says: str) -> None:
    write_checkpoint(tmp_path, family)
    edit_config(tmp_path, **({"layer_types": None} | fields))
    with pytest.raises(ModelRefused, match=says):
        a_model(tmp_path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="nowhere is not a directory; name one that holds"):
        a_model(tmp_path / "nowhere")


def test_a_gpu_that_is_not_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a machine with a GPU cannot be made to show it
    with pytest.raises(ModelRefused, match=r"device cuda was asked for and torch sees no GPU.*--device=cpu"):
        load_model(a_config(directory, device="cuda"), on_phase=lambda phase: None)


def test_a_cache_smaller_than_a_page(directory: Path) -> None:
    with pytest.raises(ModelRefused, match="raise --kv-cache-mib or lower --page-size"):
        a_model(directory, kv_cache_bytes=1000)


def test_tensors_of_another_time_do_no_harm(directory: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(directory, lambda weights: weights.update({name: torch.zeros(8)}))
    a_model(directory)
