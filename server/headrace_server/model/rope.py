"""Rotary position embedding: frequencies as `transformers` computes them (modeling_rope_utils.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.model.fields import Fields
from headrace_server.model.rope_scaling import Scaling, scaling_from

DEFAULT_THETA = 10_000.0
ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rope:
    theta: float
    scaling: Scaling | None

    def tables(self, positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, each float32 (positions, head_dim / 2)."""
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), self.frequencies(head_dim))
        amplitude = 1.0 if self.scaling is None else self.scaling.amplitude
        return (angles.cos() * amplitude).to(device), (angles.sin() * amplitude).to(device)

    def frequencies(self, head_dim: int) -> Tensor:
        """Radians per position, float32 (head_dim / 2)."""
        plain = 1.0 / self.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        return plain if self.scaling is None else self.scaling.stretched(plain, self.theta)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (tokens, heads, head_dim); cos and sin (tokens, 1, head_dim / 2). Pairs element i with i + head_dim / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rope_from(config: Fields, max_position: int) -> Rope:
    """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Raises ModelRefused."""
    _check_whole_heads(config)
    # In this order, as in transformers, when a checkpoint has both.
    named = [name for name in ("rope_scaling", "rope_parameters") if name in config]
    if not named:
        return Rope(_theta(config, DEFAULT_THETA), None)
    parameters = config.part(named[0])
    _check_whole_heads(parameters)
    for kind in ("full_attention", "sliding_attention"):
        if kind in parameters:
            raise parameters.refusal(f"{named[0]}.{kind}", "is set; supported: one rope for all layers")
    # Here, too, as in transformers: beside the rope's parameters counts before among them.
    original = (config if ORIGINAL in config else parameters).count(ORIGINAL, max_position)
    return Rope(_theta(parameters, _theta(config, DEFAULT_THETA)), scaling_from(parameters, original))


def _theta(fields: Fields, default: float) -> float:
    theta = fields.number("rope_theta", default)
    if theta <= 1:
        raise fields.refusal("rope_theta", f"is {theta}; must be above 1")
    return theta


def _check_whole_heads(fields: Fields) -> None:
    if fields.number("partial_rotary_factor", 1.0) != 1:
        raise fields.refusal("partial_rotary_factor", "is not 1; only the rotation of whole heads is supported")
