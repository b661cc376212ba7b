"""LoRA adapters as PEFT saves them, and checkpoints into which one was merged by hand."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from checkpoints import Checkpoint
from safetensors.torch import load_file, save_file

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."


def write_adapter(
    directory: Path,
    checkpoint: Checkpoint,
    rank: int = 4,
    modules: tuple[str, ...] = ALL,
    *,
    layers: tuple[int, ...] = (0, 1, 2),
    seed: int = 1,
    **fields: Any,
) -> Path:
    """`fields` override adapter_config.json. Large enough to change what is answered."""
    directory.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in matrices(checkpoint).items():
        layer, module = int(name.split(".")[2]), name.split(".")[-1]
        if layer in layers and module in modules:
            outputs, inputs = weight.shape
            tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=random) * 0.2
            tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=random) * 0.2
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config(rank, modules) | fields))
    return directory


def config(rank: int, modules: tuple[str, ...]) -> dict[str, Any]:
    """What PEFT 0.18 writes."""
    return {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
        "base_model_name_or_path": "base", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
        "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.18.0",
        "qalora_group_size": 16, "r": rank, "rank_pattern": {}, "revision": None, "target_modules": list(modules),
        "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False,
    }  # fmt: skip


def matrices(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Of the layers, by module."""
    weights = checkpoint.reference.named_parameters()
    return {
        name.removesuffix(".weight"): weight for name, weight in weights if ".layers." in name and weight.dim() == 2
    }


def merged(directory: Path, checkpoint: Checkpoint, adapter: Path) -> Path:
    """A checkpoint of W + scale * B @ A."""
    said = json.loads((adapter / "adapter_config.json").read_text())
    scale = said["lora_alpha"] / (math.sqrt(said["r"]) if said["use_rslora"] else said["r"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    before = {name: weight.clone() for name, weight in checkpoint.reference.state_dict().items()}
    with torch.no_grad():
        for name, weight in matrices(checkpoint).items():
            if f"{PREFIX}{name}.lora_A.weight" in tensors:
                a, b = (tensors[f"{PREFIX}{name}.lora_{half}.weight"] for half in "AB")
                weight.add_(scale * b @ a)
    checkpoint.reference.save_pretrained(directory)
    checkpoint.reference.load_state_dict(before)
    return directory
