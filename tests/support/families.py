"""Which checkpoints the promise of equal tokens is kept for: every family in every setting its config.json knows."""

from typing import Any

from checkpoints import LLAMA3_ROPE, YARN_ROPE

Kinds = dict[str, dict[str, Any]]  # fields of write_checkpoint

WINDOW = 13  # tokens: no multiple of a page, so that it begins inside of one
SOME_LAYERS = {"use_sliding_window": True, "sliding_window": WINDOW}
MIXED = {**SOME_LAYERS, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

LLAMA: Kinds = {
    "grouped queries": {},
    "one KV head for all": {"num_key_value_heads": 1},
    "a KV head for each": {"num_key_value_heads": 4},
    "tied output": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "heads wider than hidden": {"head_dim": 32},
    "several files": {"max_shard_size": "60KB"},
    "another rope theta": {"rope_parameters": PLAIN_ROPE | {"rope_theta": 500.0}},
    "linear rope": {"rope_parameters": PLAIN_ROPE | {"rope_type": "linear", "factor": 4.0}},
    "dynamic rope": {"rope_parameters": PLAIN_ROPE | {"rope_type": "dynamic", "factor": 4.0}},
    "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
    "yarn rope": {"rope_parameters": YARN_ROPE},
}
MISTRAL: Kinds = {
    "no window": {"sliding_window": None},
    "window": {"sliding_window": WINDOW},
    "window, one KV head, wide heads, tied output": {
        "sliding_window": WINDOW,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
    "window longer than any request": {"sliding_window": 1000},
}
QWEN2: Kinds = {
    "biases": {},
    "tied output, a KV head for each": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "yarn rope": {"rope_parameters": YARN_ROPE},
    "window from the second layer on": SOME_LAYERS | {"max_window_layers": 1},
    "window by layer": MIXED,
    "window not in use": {"use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 0},
}
QWEN3: Kinds = {
    "heads of the default width": {},
    "tied output, one KV head for all": {"head_dim": 32, "tie_word_embeddings": True, "num_key_value_heads": 1},
    "biases": {"head_dim": 16, "attention_bias": True},
    "window in every layer": SOME_LAYERS | {"head_dim": 16, "max_window_layers": 0},
    "window by layer, several files": MIXED | {"head_dim": 32, "max_shard_size": "60KB"},
}
KINDS: Kinds = {
    f"{family}: {kind}": {"family": family} | fields
    for family, kinds in {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}.items()
    for kind, fields in kinds.items()
}
WINDOWED = tuple(
    kind for kind, fields in KINDS.items() if fields.get("sliding_window") == WINDOW and "not in" not in kind
)
