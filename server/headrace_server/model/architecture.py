"""config.json of a Llama-family checkpoint, read into the shape that the transformer is built from.

Everything that would change the numbers and is not built here is refused: an answer that is wrong only a little
would be noticed by nobody.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_server.errors import ModelRefused
from headrace_server.model.rope import Rope, rope_from

SUPPORTED = ("LlamaForCausalLM",)


@dataclass(frozen=True, slots=True)
class Architecture:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int  # each is shared by heads / kv_heads query heads
    head_dim: int
    max_position: int  # tokens the positions were trained for
    rms_norm_eps: float
    rope: Rope
    tied: bool  # the output layer is the transposed embedding
    attention_bias: bool  # on q, k, v and o
    mlp_bias: bool
    eos_token_ids: tuple[int, ...]

    @property
    def kv_values_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim


def read_architecture(directory: Path) -> Architecture:
    """Raises ModelRefused, naming the file, the field and what is supported."""
    if not directory.is_dir():
        raise ModelRefused(f"{directory} is not a directory; name one that holds config.json and *.safetensors")
    fields = Fields(directory / "config.json")
    _check_supported(fields)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.refusal("num_key_value_heads", f"is {kv_heads}, which does not divide num_attention_heads {heads}")
    head_dim = fields.count("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.refusal("head_dim", f"is {head_dim}; rotary positions need an even one")
    return Architecture(
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=fields.count("max_position_embeddings"),
        rms_norm_eps=float(fields.get("rms_norm_eps", 1e-6)),
        rope=rope_from(fields.values, fields.path),
        tied=bool(fields.get("tie_word_embeddings", False)),
        attention_bias=bool(fields.get("attention_bias", False)),
        mlp_bias=bool(fields.get("mlp_bias", False)),
        eos_token_ids=_eos_token_ids(directory, fields),
    )


class Fields:
    """A JSON object in a file, with errors that name both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise ModelRefused(f"{path} is missing; a checkpoint directory holds it beside *.safetensors") from missing
        except (OSError, ValueError) as broken:
            raise ModelRefused(f"{path} cannot be read as JSON: {broken}") from broken
        if not isinstance(values, dict):
            raise ModelRefused(f"{path} holds no JSON object")
        self.values: dict[str, Any] = values

    def get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if value is None:
            raise self.refusal(name, "is missing")
        if not isinstance(value, int) or value < 1:
            raise self.refusal(name, f"is {value!r}; must be a whole number of at least 1")
        return value

    def refusal(self, name: str, message: str) -> ModelRefused:
        return ModelRefused(f"{self.path}: {name} {message}")


def _check_supported(fields: Fields) -> None:
    named = fields.get("architectures", [])
    if not set(named) & set(SUPPORTED):
        found = ", ".join(named) or "nothing"
        raise fields.refusal("architectures", f"names {found}; supported: {', '.join(SUPPORTED)}")
    if fields.get("quantization_config", None) is not None:
        raise fields.refusal("quantization_config", "is set; give the checkpoint as float32, bfloat16 or float16")
    activation = fields.get("hidden_act", "silu")
    if activation != "silu":
        raise fields.refusal("hidden_act", f"is {activation}; supported: silu")


def _eos_token_ids(directory: Path, fields: Fields) -> tuple[int, ...]:
    """generation_config.json knows more ends of text (a chat's end of turn) than config.json."""
    generation = directory / "generation_config.json"
    sources = [Fields(generation), fields] if generation.exists() else [fields]
    for source in sources:
        ids = source.get("eos_token_id", None)
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
