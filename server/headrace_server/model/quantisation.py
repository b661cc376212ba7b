"""Which weights of a model are kept in fewer bits: what was asked for, and what config.json of a checkpoint says.

Knows no torch, so that a checkpoint that cannot be served is refused before the seconds that importing it takes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace_server.config import QuantizationConfig, WeightFormat
from headrace_server.errors import ModelRefused
from headrace_server.model.fields import Fields

FIELD = "quantization_config"  # of config.json, as transformers writes it
METHOD = "headrace"  # its quant_method where `headrace quantize` wrote it
GROUPS = (32, 64, 128, 256)  # that torch's kernels for 4 bits know
HEAD = "lm_head"
EXCLUDED = {WeightFormat.INT8: (), WeightFormat.INT4: (HEAD,)}  # unless said otherwise
NAMES = re.compile(r"lm_head|model\.layers\.\d+")


@dataclass(frozen=True, slots=True)
class Quantisation:
    weights: WeightFormat
    group_size: int | None  # weights of one output that share a scale; None: all of its weights do
    excluded: frozenset[str]  # lm_head, model.layers.N: kept as they are, as embeddings and norms always are

    @property
    def bytes_per_weight(self) -> float:
        """Without scales."""
        return 1.0 if self.weights is WeightFormat.INT8 else 0.5

    def as_config(self) -> dict[str, object]:
        """What stands in config.json."""
        return {
            "quant_method": METHOD,
            "weights": str(self.weights),
            "group_size": self.group_size,
            "modules_to_not_convert": sorted(self.excluded),
        }


def asked(config: QuantizationConfig) -> Quantisation | None:
    """Raises ModelRefused."""
    if config.weights is None:
        return None
    excluded = EXCLUDED[config.weights] if config.exclude is None else config.exclude
    return quantisation(config.weights, config.group_size, excluded)


def quantisation(weights: WeightFormat, group_size: int, excluded: Iterable[str]) -> Quantisation:
    """Raises ModelRefused."""
    strange = sorted(name for name in excluded if not NAMES.fullmatch(name))
    if strange:
        raise ModelRefused(
            f"{', '.join(strange)} cannot be left out of quantisation; name lm_head or whole layers, such as "
            "model.layers.0"
        )
    if weights is WeightFormat.INT8:
        return Quantisation(weights, None, frozenset(excluded))
    if group_size not in GROUPS:
        raise ModelRefused(
            f"a group of {group_size} weights is not supported; supported: {', '.join(map(str, GROUPS))}"
        )
    return Quantisation(weights, group_size, frozenset(excluded))


def stored(directory: Path) -> Quantisation | None:
    """How the checkpoint's weights are kept. Raises ModelRefused for a way that only others can read."""
    fields = Fields.read(directory / "config.json")
    if FIELD not in fields:
        return None
    part = fields.part(FIELD)
    method = part.text("quant_method", "unknown")
    if method != METHOD:
        raise fields.refusal(
            FIELD,
            f"says that the weights were quantised by {method}, which is not read here; give the checkpoint that they "
            "were made of, in float32, bfloat16 or float16, and serve it with --quantization=int8 or int4, or convert "
            "it with `headrace quantize`",
        )
    weights = part.text("weights", "")
    if weights not in tuple(WeightFormat):
        raise part.refusal("weights", f"is {weights!r}; must be one of {', '.join(WeightFormat)}")
    group = part.count("group_size", 1)
    return quantisation(WeightFormat(weights), group, part.texts("modules_to_not_convert"))


def settled(directory: Path, config: QuantizationConfig) -> tuple[Quantisation | None, bool]:
    """How the weights are to be kept, and whether they already are in the files. Raises ModelRefused."""
    found, wanted = stored(directory), asked(config)
    if found is None:
        return wanted, False
    if wanted is not None and config.weights is not found.weights:
        raise ModelRefused(
            f"--quantization={config.weights}: {directory} was converted to {found.weights}; leave the option out, or "
            "give the checkpoint that it was made of"
        )
    return found, True


def check_layers(found: Quantisation, layers: int) -> None:
    """Raises ModelRefused for an excluded layer that the model does not have."""
    known = {HEAD, *(f"model.layers.{index}" for index in range(layers))}
    strange = sorted(found.excluded - known)
    if strange:
        raise ModelRefused(f"{', '.join(strange)} cannot be left out of quantisation: the model has {layers} layers")
