"""Which token comes next. A row's choice depends on its logits, its settings, its seed and its position alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed 64-bit integer: splitmix64's increment
MIX = ((30, -4658895280553007687), (27, -7723592293110705685))  # splitmix64's shifts and multipliers


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, one row per sequence."""

    temperature: Tensor  # float32; 0 = greedy
    top_k: Tensor  # int64; 0 = all
    top_p: Tensor  # float32
    seed: Tensor  # int64

    def of(self, rows: Tensor) -> "Choice":
        return Choice(self.temperature[rows], self.top_k[rows], self.top_p[rows], self.seed[rows])


def choose(logits: Tensor, choice: Choice | None, positions: Tensor) -> Tensor:
    """logits float32 (rows, vocab); positions int64 (rows), of the tokens chosen -> token ids int64 (rows).

    `choice` None: all greedy.
    """
    best = logits.argmax(dim=-1)
    if choice is None:
        return best
    return torch.where(choice.temperature == 0, best, _draw(logits, choice, uniform(choice.seed, positions)))


def uniform(seed: Tensor, positions: Tensor) -> Tensor:
    """float32 in [0, 1), the same for the same seed and position: splitmix64 as a counter-based generator.

    Drawn from a counter and not from a generator with a state, so that neighbours in the batch cannot move it.
    """
    bits = _mix(_mix(seed + GOLDEN) + positions * GOLDEN)
    return _shifted(bits, 40).float() * 2.0**-24


def _draw(logits: Tensor, choice: Choice, u: Tensor) -> Tensor:
    """Temperature, then top-k, then top-p over what is left: the order of transformers and vLLM."""
    cold = choice.temperature.clamp_min(1e-6).unsqueeze(1)
    scaled, tokens = (logits / cold).sort(dim=-1, descending=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    top_k = torch.where(choice.top_k == 0, logits.shape[1], choice.top_k).unsqueeze(1)
    probabilities = scaled.masked_fill(rank >= top_k, float("-inf")).softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill((before >= choice.top_p.unsqueeze(1)) & (rank > 0), 0.0)
    reached = kept.cumsum(dim=-1)
    place = torch.searchsorted(reached, u.unsqueeze(1) * reached[:, -1:], right=True)
    last = (kept > 0).sum(dim=-1, keepdim=True) - 1  # u just below 1 can round up to the whole mass
    return tokens.gather(1, place.minimum(last)).squeeze(1)


def _mix(x: Tensor) -> Tensor:
    for shift, multiplier in MIX:
        x = (x ^ _shifted(x, shift)) * multiplier
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
