"""config.json of a Llama-family checkpoint, read into the shape that the transformer is built from.

Everything that would change the numbers and is not built here is refused: an answer that is wrong only a little
would be noticed by nobody.
"""

from dataclasses import dataclass
from pathlib import Path

from headrace_server.errors import ModelRefused
from headrace_server.model.fields import Fields
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
    fields = Fields.read(directory / "config.json")
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
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope_from(fields),
        tied=fields.flag("tie_word_embeddings"),
        attention_bias=fields.flag("attention_bias"),
        mlp_bias=fields.flag("mlp_bias"),
        eos_token_ids=_eos_token_ids(directory, fields),
    )


def _check_supported(fields: Fields) -> None:
    named = fields.texts("architectures")
    if not set(named) & set(SUPPORTED):
        found = ", ".join(named) or "nothing"
        raise fields.refusal("architectures", f"names {found}; supported: {', '.join(SUPPORTED)}")
    if "quantization_config" in fields:
        raise fields.refusal("quantization_config", "is set; give the checkpoint as float32, bfloat16 or float16")
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise fields.refusal("hidden_act", f"is {activation}; supported: silu")


def _eos_token_ids(directory: Path, fields: Fields) -> tuple[int, ...]:
    """generation_config.json knows more ends of text (a chat's end of turn) than config.json."""
    generation = directory / "generation_config.json"
    more = Fields.read(generation).token_ids("eos_token_id") if generation.exists() else ()
    return more or fields.token_ids("eos_token_id")
