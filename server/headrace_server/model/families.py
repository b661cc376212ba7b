"""What each supported architecture's own code fixes, so that its config.json does not say it.

Source: the modeling files and configuration defaults of `transformers`.
"""

from dataclasses import dataclass
from enum import Enum, auto

from headrace_server.model.fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"  # entries of layer_types
WINDOW_UNLESS_SAID = 4096  # tokens; what transformers takes when the field is not there at all
FIRST_WINDOWED_LAYER_UNLESS_SAID = 28
Windows = tuple[int | None, ...]  # per layer: how many tokens a query sees, itself included; None: all before it


class Windowing(Enum):
    NEVER = auto()
    EVERY_LAYER = auto()  # one sliding_window for all, or none
    SOME_LAYERS = auto()  # use_sliding_window, then layer_types or max_window_layers


class Bias(Enum):
    NEVER = auto()
    AS_CONFIGURED = auto()  # attention_bias, mlp_bias
    ALWAYS = auto()


@dataclass(frozen=True, slots=True)
class Family:
    qkv_bias: Bias = Bias.NEVER
    out_bias: Bias = Bias.NEVER
    mlp_bias: Bias = Bias.NEVER
    qk_norm: bool = False  # RMSNorm of each query and key head, before they are rotated
    windowing: Windowing = Windowing.NEVER
    head_dim: int | None = None  # unless config.json says it; None: hidden_size / num_attention_heads


FAMILIES = {
    "LlamaForCausalLM": Family(Bias.AS_CONFIGURED, Bias.AS_CONFIGURED, Bias.AS_CONFIGURED),
    "MistralForCausalLM": Family(windowing=Windowing.EVERY_LAYER),
    "Qwen2ForCausalLM": Family(qkv_bias=Bias.ALWAYS, windowing=Windowing.SOME_LAYERS),
    "Qwen3ForCausalLM": Family(
        Bias.AS_CONFIGURED, Bias.AS_CONFIGURED, qk_norm=True, windowing=Windowing.SOME_LAYERS, head_dim=128
    ),
}


def has_bias(bias: Bias, fields: Fields, name: str) -> bool:
    """Raises ModelRefused when the field decides and is no flag."""
    return fields.flag(name) if bias is Bias.AS_CONFIGURED else bias is Bias.ALWAYS


def windows_from(fields: Fields, windowing: Windowing, layers: int) -> Windows:
    """Raises ModelRefused, naming the field."""
    match windowing:
        case Windowing.NEVER:
            return (None,) * layers
        case Windowing.EVERY_LAYER:
            return _in_every_layer(fields, layers)
        case Windowing.SOME_LAYERS:
            return _in_some_layers(fields, layers)


def _in_every_layer(fields: Fields, layers: int) -> Windows:
    window = _window(fields)
    expected = FULL if window is None else SLIDING
    if set(fields.texts("layer_types")) - {expected}:
        raise fields.refusal("layer_types", f"mixes kinds; with sliding_window {window} every layer is {expected}")
    return (window,) * layers


def _in_some_layers(fields: Fields, layers: int) -> Windows:
    window = _window(fields) if fields.flag("use_sliding_window") else None
    kinds = fields.texts("layer_types") or _kinds(fields, window, layers)
    if len(kinds) != layers:
        raise fields.refusal("layer_types", f"has {len(kinds)} entries for {layers} layers")
    unknown = sorted(set(kinds) - {FULL, SLIDING})
    if unknown:
        raise fields.refusal("layer_types", f"has {', '.join(unknown)}; supported: {FULL}, {SLIDING}")
    if SLIDING in kinds and window is None:
        raise fields.refusal("layer_types", f"has {SLIDING}, which needs use_sliding_window true and a sliding_window")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _kinds(fields: Fields, window: int | None, layers: int) -> list[str]:
    first = fields.count("max_window_layers", FIRST_WINDOWED_LAYER_UNLESS_SAID, least=0)
    return [SLIDING if window is not None and layer >= first else FULL for layer in range(layers)]


def _window(fields: Fields) -> int | None:
    """Null says that there is none; a field that is left out says nothing."""
    return None if fields.is_null("sliding_window") else fields.count("sliding_window", WINDOW_UNLESS_SAID)
