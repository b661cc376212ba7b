"""How the frequencies of rotary positions change in models that were stretched beyond their first training length.

Source: modeling_rope_utils.py of `transformers`, whose numbers these are.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headrace_server.model.fields import Fields

SUPPORTED = ("default", "linear", "dynamic", "llama3", "yarn")


class Scaling(Protocol):
    """How a model reaches beyond the positions that it was first trained for."""

    @property
    def amplitude(self) -> float:
        """Multiplies cos and sin, so each attention score twice."""

    def stretched(self, plain: Tensor, theta: float) -> Tensor:
        """Frequencies from the plain ones; both float32 (head_dim / 2), radians per position."""


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation (Chen et al. 2023): every wavelength is `factor` times as long."""

    factor: float

    @property
    def amplitude(self) -> float:
        return 1.0

    def stretched(self, plain: Tensor, theta: float) -> Tensor:
        return plain / self.factor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int  # tokens

    @property
    def amplitude(self) -> float:
        return 1.0

    def stretched(self, plain: Tensor, theta: float) -> Tensor:
        wavelength = 2 * math.pi / plain  # positions
        longest_kept = self.original_max_position / self.high_freq_factor
        shortest_stretched = self.original_max_position / self.low_freq_factor
        between = (self.original_max_position / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - between) * plain / self.factor + between * plain
        stretched = torch.where(wavelength > shortest_stretched, plain / self.factor, plain)
        is_between = (wavelength >= longest_kept) & (wavelength <= shortest_stretched)
        return torch.where(is_between, blended, stretched)


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): pairs that turn often are kept, those that turn seldom stretched, a ramp between."""

    factor: float
    original_max_position: int  # tokens
    amplitude: float
    beta_fast: float  # turns over the original positions, at which stretching begins
    beta_slow: float  # and at which it is complete
    truncate: bool  # the ramp's ends to whole pairs

    def stretched(self, plain: Tensor, theta: float) -> Tensor:
        head_dim = 2 * len(plain)
        first, last = (self._pair(turns, head_dim, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        width = last - first or 0.001  # transformers' guard against dividing by zero
        stretch = ((torch.arange(len(plain), dtype=torch.float32) - first) / width).clamp(0, 1)
        return plain / self.factor * stretch + plain * (1 - stretch)

    def _pair(self, turns: float, head_dim: int, theta: float) -> float:
        """The index of the pair that turns so often."""
        return head_dim * math.log(self.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))


def scaling_from(parameters: Fields, original: int) -> Scaling | None:
    """None: the plain frequencies. `original`: tokens of the first training. Raises ModelRefused."""
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    match kind:
        case "default":
            return None
        case "dynamic":
            parameters.number("factor")
            # It stretches only beyond max_position_embeddings, and no request is let in that goes there.
            return None
        case "linear":
            return LinearScaling(parameters.number("factor"))
        case "llama3":
            return _llama3(parameters, original)
        case "yarn":
            return _yarn(parameters, original)
        case _:
            raise parameters.refusal("rope_type", f"is {kind}; supported: {', '.join(SUPPORTED)}")


def _llama3(parameters: Fields, original: int) -> Llama3Scaling:
    low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
    if high <= low:
        raise parameters.refusal("high_freq_factor", f"is {high}; must be above low_freq_factor, which is {low}")
    return Llama3Scaling(
        factor=parameters.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=original,
    )


def _yarn(parameters: Fields, original: int) -> YarnScaling:
    return YarnScaling(
        factor=parameters.number("factor"),
        original_max_position=original,
        amplitude=_yarn_amplitude(parameters),
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", default=True),
    )


def _yarn_amplitude(parameters: Fields) -> float:
    if "attention_factor" in parameters:
        return parameters.number("attention_factor")
    growth = 0.1 * math.log(max(parameters.number("factor"), 1.0))
    if "mscale" in parameters and "mscale_all_dim" in parameters:
        return (growth * parameters.number("mscale") + 1) / (growth * parameters.number("mscale_all_dim") + 1)
    return growth + 1
