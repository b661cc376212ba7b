"""config.json of a BERT-like checkpoint, read into the shape that the encoder is built from.

What would change the numbers and is not built here is refused, as in model/architecture.py.
"""

from dataclasses import dataclass
from pathlib import Path

from headrace_server.model.fields import Fields

# By architecture: whether positions begin after the padding token's id, as RoBERTa's do, instead of at 0.
# Source: the modeling files of `transformers`.
OFFSET_POSITIONS = {"BertModel": False, "RobertaModel": True, "XLMRobertaModel": True}
# Cross-encoders: the body that they have, and what its tensors' names begin with.
JUDGES = {
    "BertForSequenceClassification": ("BertModel", "bert."),
    "RobertaForSequenceClassification": ("RobertaModel", "roberta."),
    "XLMRobertaForSequenceClassification": ("XLMRobertaModel", "roberta."),
}


@dataclass(frozen=True, slots=True)
class EncoderShape:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int  # rows of the table
    first_position: int  # the row of a text's first token
    types: int  # of tokens: a text's own have the type 0, those of a pair's second text the type 1
    norm_eps: float
    prefix: str = ""  # of the tensors' names
    judges: bool = False  # it has a head that gives a score for two texts

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    @property
    def max_tokens(self) -> int:
        """That the positions were trained for."""
        return self.positions - self.first_position


def is_encoder(directory: Path) -> bool:
    """Whether config.json names one of these. Raises ModelRefused when it cannot be read."""
    return any(name in OFFSET_POSITIONS for name in Fields.read(directory / "config.json").texts("architectures"))


def is_judge(directory: Path) -> bool:
    """Whether config.json names a cross-encoder. Likewise."""
    return any(name in JUDGES for name in Fields.read(directory / "config.json").texts("architectures"))


def read_shape(directory: Path) -> EncoderShape:
    """Raises ModelRefused, naming the file, the field and what is supported."""
    fields = Fields.read(directory / "config.json")
    named = [name for name in fields.texts("architectures") if name in OFFSET_POSITIONS or name in JUDGES]
    if not named:
        raise fields.refusal(
            "architectures",
            f"names {', '.join(fields.texts('architectures')) or 'nothing'}; supported: "
            f"{', '.join((*OFFSET_POSITIONS, *JUDGES))}",
        )
    _check_supported(fields)
    body, prefix = JUDGES.get(named[0], (named[0], ""))
    if named[0] in JUDGES:
        _check_one_score(fields)
    heads, hidden = fields.count("num_attention_heads"), fields.count("hidden_size")
    if hidden % heads:
        raise fields.refusal("num_attention_heads", f"is {heads}, which does not divide hidden_size {hidden}")
    return EncoderShape(
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        positions=fields.count("max_position_embeddings"),
        first_position=_first_position(fields, body),
        types=fields.count("type_vocab_size"),
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        prefix=prefix,
        judges=named[0] in JUDGES,
    )


def _check_one_score(fields: Fields) -> None:
    """transformers writes the labels' names unless there are two."""
    labels = len(fields.part("id2label")) if "id2label" in fields else 2
    if labels != 1:
        raise fields.refusal(
            "id2label", f"names {labels} labels; only models that give one score for two texts rerank, not classifiers"
        )


def _first_position(fields: Fields, architecture: str) -> int:
    if not OFFSET_POSITIONS[architecture]:
        return 0
    first = fields.count("pad_token_id", 1, least=0) + 1
    if first >= fields.count("max_position_embeddings"):
        raise fields.refusal("pad_token_id", f"is {first - 1}, and positions begin after it; there are none left")
    return first


def _check_supported(fields: Fields) -> None:
    if "quantization_config" in fields:
        raise fields.refusal("quantization_config", "is set; give the checkpoint as float32, bfloat16 or float16")
    for name in ("is_decoder", "add_cross_attention"):
        if fields.flag(name):
            raise fields.refusal(name, "is true; only encoders are served")
    activation = fields.text("hidden_act", "gelu")
    if activation != "gelu":
        raise fields.refusal("hidden_act", f"is {activation}; supported: gelu")
    positions = fields.text("position_embedding_type", "absolute")
    if positions != "absolute":
        raise fields.refusal("position_embedding_type", f"is {positions}; supported: absolute")
