"""Random small checkpoints of every family, written by transformers: the same files a hub would give."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    directory: Path
    reference: Any  # transformers' own model with the same weights, float32


def write_checkpoint(
    directory: Path, family: str = "llama", seed: int = 0, max_shard_size: str = "5GB", **fields: Any
) -> Checkpoint:
    """`family`: transformers' model_type. `fields` override its configuration.

    Weights are spread wide, so that no two tokens are a rounding error apart.
    """
    shape = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **(shape | fields))
    reference: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    reference.eval()
    _spread_what_starts_constant(reference)
    reference.save_pretrained(directory, max_shard_size=max_shard_size)
    return Checkpoint(directory, reference)


def write_config(directory: Path, family: str = "Llama", **fields: Any) -> Path:
    """config.json alone, with what every family needs and `fields`; None is written as null."""
    needed = {
        "architectures": [f"{family}ForCausalLM"],
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    (directory / "config.json").write_text(json.dumps(needed | fields))
    return directory


def edit_config(directory: Path, **fields: Any) -> None:
    """Overwrites fields of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def greedy(checkpoint: Checkpoint, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
    """What transformers' generate answers, without stopping early."""
    with torch.inference_mode():
        ids = checkpoint.reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    answer: list[int] = ids[0, len(prompt) :].tolist()
    return answer


def _spread_what_starts_constant(model: Any) -> None:
    """Norms start as ones and biases as zeros: an engine that forgot them would pass."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
