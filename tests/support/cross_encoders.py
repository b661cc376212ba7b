"""Cross-encoders of random weights, written by transformers with a real tokenizer beside them.

No package of real cross-encoder weights as safetensors was found: the arithmetic does not know the difference.
"""

from pathlib import Path
from shutil import copy
from typing import Any

import torch
from minilm import minilm
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_labels": 1,
}


def write_cross_encoder(directory: Path, *, roberta: bool = False, seed: int = 6) -> Any:
    """transformers' own model with the same weights, float32. The tokenizer is all-MiniLM-L6-v2's."""
    torch.manual_seed(seed)
    words = len(AutoTokenizer.from_pretrained(minilm()))
    if roberta:
        config = XLMRobertaConfig(
            vocab_size=words, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SIZES
        )
        model: Any = XLMRobertaForSequenceClassification(config)
    else:
        model = BertForSequenceClassification(BertConfig(vocab_size=words, max_position_embeddings=64, **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at 0 and norms at 1, which hides that they are not read
            parameter.normal_(0.0, 0.5)
    model.eval().save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copy(minilm() / name, directory / name)
    return model
