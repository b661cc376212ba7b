"""Writes a random checkpoint of any family and size, so that a speed can be measured without anybody's weights.

transformers writes it, so it is what a hub would give: config.json, safetensors, tokenizer.json. Equal arguments give
equal files. It needs no network.

    python bench/make_checkpoint.py llama-144m --family llama --size 144m --dtype float32
    python bench/make_checkpoint.py tiny-qwen3 --family qwen3 --size 1m --set num_hidden_layers=2
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPECIAL = ("<s>", "</s>", "<|endoftext|>")  # ids 0 to 2; transformers adds the last one to what Qwen reads
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
STRETCHED = 8  # times the context that the positions of llama3 were first trained for
# name -> (transformers' model_type, what the family is known for)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3": ("llama", {}),  # its positions are scaled, see below
    "mistral": ("mistral", {"sliding_window": 4096}),
    "qwen2": ("qwen2", {}),  # has biases on q, k and v
    "qwen3": ("qwen3", {}),  # normalises q and k
}


SHAPE = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
    "max_position_embeddings",
)
SIZES = {
    "1m": (3, 128, 4, 2, 352, 4096, True, 4096),
    "144m": (12, 768, 12, 4, 2752, 32_000, False, 8192),
    "1b": (16, 2048, 32, 8, 8192, 128_256, True, 131_072),  # of Llama 3.2 1B
    "3b": (28, 3072, 24, 8, 8192, 128_256, True, 131_072),  # of Llama 3.2 3B
    "8b": (32, 4096, 32, 8, 14_336, 128_256, False, 131_072),  # of Llama 3.1 8B
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write; must not hold a checkpoint yet")
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--size", choices=SIZES, default="144m")
    parser.add_argument("--set", type=_field, action="append", default=[], metavar="FIELD=VALUE", help="of config.json")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.directory / "config.json").exists():
        sys.exit(f"{options.directory} holds a checkpoint already; name another directory")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = config_of(options.family, options.size, dict(options.set))
    parameters = write(options.directory, config, DTYPES[options.dtype], options.seed)
    told = {"directory": str(options.directory), "family": options.family, "parameters": parameters}
    print(json.dumps(told | {"dtype": options.dtype} | {name: config[name] for name in (*SHAPE, "head_dim")}))


def config_of(family: str, size: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of config.json. `fields` overrides those of the family and of the size."""
    model_type, habits = FAMILIES[family]
    shape: dict[str, Any] = dict(zip(SHAPE, SIZES[size], strict=True))
    config: dict[str, Any] = {"model_type": model_type, "bos_token_id": 0, "eos_token_id": 1} | shape | habits | fields
    unknown = set(fields) - set(AutoConfig.for_model(model_type).to_dict())
    if unknown:
        sys.exit(f"--set {', '.join(sorted(unknown))}: the config of {model_type} has no such field")
    if "head_dim" not in fields:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if family == "llama3" and "rope_parameters" not in fields:
        first = config["max_position_embeddings"] // STRETCHED
        config["rope_parameters"] = LLAMA3_ROPE | {
            "factor": float(STRETCHED),
            "original_max_position_embeddings": first,
        }
    return config


def write(directory: Path, fields: dict[str, Any], dtype: torch.dtype, seed: int) -> int:
    """Returns the number of parameters; a tied one counts once."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    _spread_what_starts_constant(model)
    model.save_pretrained(directory)
    tokenizer_of(fields["vocab_size"]).save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    """One token a byte, then words that no text is split into: each id has a text, and each text has ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*SPECIAL, *alphabet]
    if size < len(known):
        sys.exit(f"vocab_size is {size}; a token for each byte needs at least {len(known)}")
    words = [*known, *(f"Ġword{number}" for number in range(size - len(known)))]  # Ġ stands for a space
    bpe = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[1]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@torch.no_grad()
def _spread_what_starts_constant(model: torch.nn.Module) -> None:
    """Norms start as ones and biases as zeros: an engine that forgets them would answer alike."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.02)


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"is {text}; must be FIELD=VALUE, for example num_hidden_layers=2")
    try:
        return name, json.loads(value)
    except ValueError as broken:
        raise argparse.ArgumentTypeError(f"is {text}; the value must be JSON: {broken}") from broken


if __name__ == "__main__":
    main()
