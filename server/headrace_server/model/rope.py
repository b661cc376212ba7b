"""Rotary position embedding: frequencies as `transformers` computes them (modeling_rope_utils.py)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.model.fields import Fields

DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int  # tokens


@dataclass(frozen=True, slots=True)
class Rope:
    theta: float
    scaling: Llama3Scaling | None

    def tables(self, positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, each float32 (positions, head_dim / 2)."""
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), self.frequencies(head_dim))
        return angles.cos().to(device), angles.sin().to(device)

    def frequencies(self, head_dim: int) -> Tensor:
        """Radians per position, float32 (head_dim / 2)."""
        plain = 1.0 / self.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        return plain if self.scaling is None else _stretch(plain, self.scaling)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (tokens, heads, head_dim); cos and sin (tokens, 1, head_dim / 2). Pairs element i with i + head_dim / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rope_from(config: Fields) -> Rope:
    """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Raises ModelRefused."""
    named = [name for name in ("rope_parameters", "rope_scaling") if name in config]
    if not named:
        return Rope(config.number("rope_theta", DEFAULT_THETA), None)
    parameters = config.part(named[0])
    theta = parameters.number("rope_theta", config.number("rope_theta", DEFAULT_THETA))
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    match kind:
        case "default":
            return Rope(theta, None)
        case "llama3":
            return Rope(theta, _llama3(parameters))
        case _:
            raise parameters.refusal("rope_type", f"is {kind}; supported: default, llama3")


def _llama3(parameters: Fields) -> Llama3Scaling:
    return Llama3Scaling(
        factor=parameters.number("factor"),
        low_freq_factor=parameters.number("low_freq_factor"),
        high_freq_factor=parameters.number("high_freq_factor"),
        original_max_position=parameters.count("original_max_position_embeddings"),
    )


def _stretch(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / plain  # positions
    longest_kept = scaling.original_max_position / scaling.high_freq_factor
    shortest_stretched = scaling.original_max_position / scaling.low_freq_factor
    between = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - between) * plain / scaling.factor + between * plain
    stretched = torch.where(wavelength > shortest_stretched, plain / scaling.factor, plain)
    is_between = (wavelength >= longest_kept) & (wavelength <= shortest_stretched)
    return torch.where(is_between, blended, stretched)
