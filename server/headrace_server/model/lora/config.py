"""What adapter_config.json of PEFT says, and what of it is not served.

Knows no torch, so that an adapter that cannot be served is refused before the seconds that importing it takes.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from headrace_server.config import AdapterDirectory
from headrace_server.errors import ModelRefused
from headrace_server.model.fields import Fields

CONFIG = "adapter_config.json"
# Fields that change what is computed, by what each would mean. PEFT writes null, false or something empty otherwise.
UNSERVED = {
    "use_dora": "magnitudes beside the matrices (DoRA)",
    "lora_bias": "biases of the adapter's own",
    "modules_to_save": "whole modules in the base model's place",
    "rank_pattern": "ranks that differ by module",
    "alpha_pattern": "scales that differ by module",
    "layer_replication": "layers that are repeated",
    "target_parameters": "parameters that are no linear layers",
    "trainable_token_indices": "embeddings of its own",
    "fan_in_fan_out": "transposed matrices",
    "use_qalora": "pooled inputs (QALoRA)",
    "use_bdlora": "block-diagonal matrices (BD-LoRA)",
    "kasa_config": "singular values beside the matrices (KaSA)",
    "monteclora_config": "sampled matrices (MonteCLoRA)",
    "alora_invocation_tokens": "a start in the middle of a prompt (aLoRA)",
    "arrow_config": "a router between adapters (Arrow)",
    "megatron_config": "Megatron's layers",
}
# How training began. The others moved the base model's own weights, and hold only beside those.
STARTS_BESIDE_THE_WEIGHTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    rank: int
    scale: float  # of B @ A


def read_config(adapter: AdapterDirectory, most_rank: int) -> AdapterConfig:
    """Raises ModelRefused, naming the adapter and the field."""
    try:
        return _read(adapter.directory, most_rank)
    except ModelRefused as refused:
        raise ModelRefused(f"adapter {adapter.name}: {refused}") from refused


def _read(directory: Path, most_rank: int) -> AdapterConfig:
    fields = Fields.read(directory / CONFIG)
    kind = fields.text("peft_type", "LORA")
    if kind != "LORA":
        raise fields.refusal("peft_type", f"is {kind!r}; only LORA is served")
    for name, meaning in UNSERVED.items():
        if value := fields.raw(name):
            raise fields.refusal(name, f"is {value!r}, which means {meaning}; train the adapter without it")
    if fields.text("bias", "none") != "none":
        raise fields.refusal("bias", f"is {fields.text('bias', 'none')!r}; only 'none' is served: train without biases")
    start = fields.raw("init_lora_weights")
    if start is not None and start not in STARTS_BESIDE_THE_WEIGHTS:
        raise fields.refusal(
            "init_lora_weights",
            f"is {start!r}, which changed the base model's weights, too; save the adapter again with PEFT's "
            "path_initial_model_for_weight_conversion",
        )
    rank, alpha = fields.count("r"), fields.number("lora_alpha")
    if rank > most_rank:
        raise fields.refusal("r", f"is {rank}; at most --max-lora-rank={most_rank} is served, raise it")
    return AdapterConfig(rank, alpha / (math.sqrt(rank) if fields.flag("use_rslora") else rank))
