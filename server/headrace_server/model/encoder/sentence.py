"""How a checkpoint makes one vector of a text's hidden states, as the files of sentence-transformers say it.

    modules.json                   Transformer, then Pooling, then perhaps Normalize
    1_Pooling/config.json          mean, CLS or last token
    sentence_bert_config.json      max_seq_length, do_lower_case

Each file that would change the numbers is read, or what it asks for is refused.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from headrace_server.embedding import Pooling
from headrace_server.errors import ModelRefused
from headrace_server.model.fields import Fields

MODULES, SENTENCE = "modules.json", "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
POOLINGS = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}
FLAGS = {  # of pooling files written by versions of sentence-transformers before 6
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sentence:
    pooling: Pooling
    normalises: bool
    max_tokens: int | None  # of one text; None: what the positions allow
    lower_case: bool  # texts are lower-cased before they are tokenised


def read_sentence(directory: Path, dimensions: int, *, needed: bool = False) -> Sentence:
    """`dimensions`: of a hidden state. `needed`: modules.json has to be there.

    Raises ModelRefused, naming the file and what is supported.
    """
    check_prompts(directory)
    if needed and not (directory / MODULES).exists():
        raise ModelRefused(
            f"{directory / MODULES} is missing: nothing says how this decoder makes a vector of a text; give the files "
            "that sentence-transformers writes beside the weights, or serve it with --task=generate"
        )
    pooling, normalises = _modules(directory, dimensions)
    max_tokens, lower_case = read_lengths(directory)
    return Sentence(pooling, normalises, max_tokens, lower_case)


def read_lengths(directory: Path) -> tuple[int | None, bool]:
    """Tokens of one text, None: what the positions allow; and whether it is lower-cased. Raises ModelRefused."""
    path = directory / SENTENCE
    limits = Fields.read(path) if path.exists() else Fields(path, {})
    return limits.count("max_seq_length") if "max_seq_length" in limits else None, limits.flag("do_lower_case")


def _modules(directory: Path, dimensions: int) -> tuple[Pooling, bool]:
    path = directory / MODULES
    if not path.exists():
        log.warning("%s is missing: the mean of a text's hidden states is its vector, not normalised", path)
        return Pooling.MEAN, False
    kinds = []
    pooling = None
    for name, folder in listed(path):
        kinds.append(name)
        if name == "Pooling":
            pooling = _pooling(directory / folder / "config.json", dimensions)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or pooling is None:
        raise ModelRefused(
            f"{path}: lists {', '.join(kinds) or 'nothing'}; supported: Transformer, Pooling, and Normalize after them"
        )
    return pooling, kinds[-1] == "Normalize"


def listed(path: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module. Raises ModelRefused."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        return [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise ModelRefused(f"{path}: is not sentence-transformers' list of modules: {broken!r}") from broken


def _pooling(path: Path, dimensions: int) -> Pooling:
    fields = Fields.read(path)
    for name in ("word_embedding_dimension", "embedding_dimension"):
        if name in fields and fields.count(name) != dimensions:
            raise fields.refusal(name, f"is {fields.count(name)}, and the model's hidden_size is {dimensions}")
    if not fields.flag("include_prompt", default=True):
        raise fields.refusal("include_prompt", "is false; only pooling over the whole text is supported")
    modes = (
        [fields.text("pooling_mode", "")]
        if "pooling_mode" in fields
        else [mode for name, mode in FLAGS.items() if fields.flag(name)]
    )
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise fields.refusal("pooling_mode", f"is {', '.join(modes) or 'none'}; supported: {', '.join(POOLINGS)}")
    return POOLINGS[modes[0]]


def check_prompts(directory: Path) -> None:
    """Raises ModelRefused."""
    path = directory / PROMPTS
    if path.exists() and (named := Fields.read(path).text("default_prompt_name", "")):
        raise ModelRefused(
            f"{path}: default_prompt_name is {named}; texts are embedded as they are sent: set it to null, and let "
            "clients send the prompt with their texts"
        )
