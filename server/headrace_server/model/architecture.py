"""config.json of a Llama, Mistral or Qwen checkpoint, read into the shape that the transformer is built from.

Everything that would change the numbers and is not built here is refused: an answer that is wrong only a little
would be noticed by nobody.
"""

from dataclasses import dataclass
from pathlib import Path

from headrace_server.errors import ModelRefused
from headrace_server.model.families import FAMILIES, Family, Windows, has_bias, windows_from
from headrace_server.model.fields import Fields
from headrace_server.model.quantisation import FIELD, stored
from headrace_server.model.rope import Rope, rope_from

NOT_BUILT = {
    "vision_config": "is set; only text models are served",
    "audio_config": "is set; only text models are served",
    "num_experts": "is set; mixtures of experts are not supported, give a dense model",
    "num_local_experts": "is set; mixtures of experts are not supported, give a dense model",
}


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
    qkv_bias: bool
    out_bias: bool  # of attention
    mlp_bias: bool
    qk_norm: bool  # RMSNorm of each query and key head, before they are rotated
    windows: Windows
    eos_token_ids: tuple[int, ...]

    @property
    def kv_values_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim


def read_architecture(directory: Path, *, body: bool = False) -> Architecture:
    """`body`: a model without an output matrix will do, too.

    Raises ModelRefused, naming the file, the field and what is supported.
    """
    if not directory.is_dir():
        raise ModelRefused(f"{directory} is not a directory; name one that holds config.json and *.safetensors")
    fields = Fields.read(directory / "config.json")
    family = _family(fields, body)
    _check_supported(fields)
    if stored(directory) is not None and body:
        raise fields.refusal(FIELD, "is set; embedders are served in float32, bfloat16 or float16")
    heads, kv_heads, head_dim = _heads(fields, family)
    layers, max_position = fields.count("num_hidden_layers"), fields.count("max_position_embeddings")
    return Architecture(
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope_from(fields, max_position),
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=has_bias(family.qkv_bias, fields, "attention_bias"),
        out_bias=has_bias(family.out_bias, fields, "attention_bias"),
        mlp_bias=has_bias(family.mlp_bias, fields, "mlp_bias"),
        qk_norm=family.qk_norm,
        windows=windows_from(fields, family.windowing, layers),
        eos_token_ids=_eos_token_ids(directory, fields),
    )


def _family(fields: Fields, body: bool) -> Family:
    named = fields.texts("architectures")
    for name in (_with_head(each) if body else each for each in named):
        if name in FAMILIES:
            return FAMILIES[name]
    found = ", ".join(named) or "nothing"
    raise fields.refusal("architectures", f"names {found}; supported: {', '.join(FAMILIES)}")


def _with_head(name: str) -> str:
    return f"{name.removesuffix('Model')}ForCausalLM" if name.endswith("Model") else name


def _check_supported(fields: Fields) -> None:
    for name, why in NOT_BUILT.items():
        if name in fields:
            raise fields.refusal(name, why)
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise fields.refusal("hidden_act", f"is {activation}; supported: silu")


def _heads(fields: Fields, family: Family) -> tuple[int, int, int]:
    """Query heads, KV heads, the dimension of each."""
    heads = fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.refusal("num_key_value_heads", f"is {kv_heads}, which does not divide num_attention_heads {heads}")
    head_dim = fields.count("head_dim", family.head_dim or fields.count("hidden_size") // heads)
    if head_dim % 2:
        raise fields.refusal("head_dim", f"is {head_dim}; rotary positions need an even one")
    return heads, kv_heads, head_dim


def _eos_token_ids(directory: Path, fields: Fields) -> tuple[int, ...]:
    """generation_config.json knows more ends of text (a chat's end of turn) than config.json."""
    generation = directory / "generation_config.json"
    more = Fields.read(generation).token_ids("eos_token_id") if generation.exists() else ()
    return more or fields.token_ids("eos_token_id")
