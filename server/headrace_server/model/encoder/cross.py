"""A cross-encoder: query and document read as one text, and one score for both.

What sentence-transformers writes beside the weights says whether the score goes through the sigmoid. As in sentence.py
each file that would change the scores is read, or what it asks for is refused.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.encoder.sentence import MODULES, PROMPTS, check_prompts, listed, read_lengths
from headrace_server.model.encoder.texts import Texts
from headrace_server.model.encoder.weights import PairHead
from headrace_server.model.fields import Fields

# By the last word of torch's name of it: whether the score goes through the sigmoid.
ACTIVATIONS = {"Sigmoid": True, "Identity": False}


@dataclass(frozen=True, slots=True)
class Cross:
    bounds_scores: bool  # by the sigmoid: scores are between 0 and 1
    max_tokens: int | None  # of a pair; None: what the positions allow
    lower_case: bool


def read_cross(directory: Path) -> Cross:
    """Raises ModelRefused, naming the file and what is supported."""
    check_prompts(directory)
    if (path := directory / MODULES).exists() and (kinds := [kind for kind, _ in listed(path)]) != ["Transformer"]:
        raise ModelRefused(f"{path}: lists {', '.join(kinds) or 'nothing'}; of a cross-encoder: Transformer alone")
    max_tokens, lower_case = read_lengths(directory)
    return Cross(_bounds_scores(directory), max_tokens or _length_in_training(directory), lower_case)


def pair_scores(hidden: Tensor, texts: Texts, head: PairHead) -> Tensor:
    """hidden (T, hidden) -> float32 (N, 1): the logit, before any sigmoid."""
    first = hidden[texts.bounds[:-1]].float()
    return head.out(torch.tanh(head.dense(first)))


def _length_in_training(directory: Path) -> int | None:
    """Which sentence-transformers takes from the tokenizer."""
    path = directory / "tokenizer_config.json"
    if not path.exists() or "model_max_length" not in (fields := Fields.read(path)):
        return None
    return int(fields.number("model_max_length"))  # some write 1e30 for none


def _bounds_scores(directory: Path) -> bool:
    """As sentence-transformers has it: its own file first, then config.json in the two forms of earlier versions."""
    config = Fields.read(directory / "config.json")
    own = Fields.read(directory / PROMPTS) if (directory / PROMPTS).exists() else config
    for fields, name in (
        (own, "activation_fn"),
        (config.part("sentence_transformers") if "sentence_transformers" in config else config, "activation_fn"),
        (config, "sbert_ce_default_activation_function"),
    ):
        if name in fields:
            kind = fields.text(name, "").rsplit(".", 1)[-1]
            if kind not in ACTIVATIONS:
                raise fields.refusal(name, f"is {fields.text(name, '')}; supported: {', '.join(ACTIVATIONS)}")
            return ACTIVATIONS[kind]
    return True
