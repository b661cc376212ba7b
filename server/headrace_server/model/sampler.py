"""Which token comes next. A row's choice depends on its logits, its settings, its seed and its position alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.model.logprobs import LogprobRows, logprobs, together
from headrace_server.model.penalties import moved
from headrace_server.model.sampling_settings import MIN_P, TEMPERATURE, TOP_P, Features, Settings

GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed 64-bit integer: splitmix64's increment
MIX = ((30, -4658895280553007687), (27, -7723592293110705685))  # splitmix64's shifts and multipliers

COLDEST = 1e-6  # dividing by less overflows; it is as good as greedy
Mask = Callable[[Tensor], Tensor]  # logits to logits, -inf for what may not come


@dataclass(frozen=True, slots=True)
class Chosen:
    ids: Tensor  # int64 (rows)
    logprobs: LogprobRows | None  # None when no row of the step wants any


def joined(parts: Sequence[Chosen]) -> Chosen:
    """The rows of all, in their order; either all or none of them have logprobs."""
    scores = [part.logprobs for part in parts if part.logprobs is not None]
    return Chosen(torch.cat([part.ids for part in parts]), together(scores) if scores else None)


def sample(
    logits: Tensor, settings: Settings, features: Features, positions: Tensor, allowed: Mask | None = None
) -> Chosen:
    """logits float32 (rows, vocab), not changed; positions int64 (rows), of the tokens to be chosen.

    Nothing here waits for the device. `allowed` takes out what a grammar forbids. Logprobs are the model's own.
    """
    shaped = moved(logits if allowed is None else allowed(logits), settings, features, positions)
    ids = shaped.argmax(dim=-1)
    if features.random:
        drawn = _drawn(shaped, settings, features, uniform(settings.seed, positions))
        ids = drawn.where(settings.floats[:, TEMPERATURE] > 0, ids)
    wanted = features.most_logprobs
    return Chosen(ids, None if wanted is None else logprobs(logits, ids, wanted))


def _drawn(logits: Tensor, settings: Settings, features: Features, u: Tensor) -> Tensor:
    """int64 (rows). Which token belongs to which part of [0, 1) follows the vocabulary, whatever filters a step has:

    the neighbours' filters decide what is sorted, and must not decide what is drawn.
    """
    scaled = logits / settings.column(TEMPERATURE).clamp_min(COLDEST)
    if features.filters:
        scaled = scaled.masked_fill(scaled < _least(scaled, settings, features), float("-inf"))
    reached = scaled.softmax(dim=-1).cumsum(dim=-1)
    whole = reached[:, -1:]
    below = whole.nextafter(torch.zeros_like(whole))  # u just below 1 can round up to the whole mass
    return torch.searchsorted(reached, below.minimum(u.unsqueeze(1) * whole), right=True).squeeze(1)


def _least(scaled: Tensor, settings: Settings, features: Features) -> Tensor:
    """float32 (rows, 1): what a scaled logit must have to stay; equal ones stay together.

    Top-k, then top-p over the mass of what top-k left, as transformers and vLLM do it; min-p looks at the best alone.
    """
    least = torch.full_like(scaled[:, :1], float("-inf"))
    if features.all_ranked:
        least = _ranked(scaled.sort(dim=-1, descending=True).values, settings)
    elif features.most_ranked:
        least = _ranked(scaled.topk(min(features.most_ranked, scaled.shape[1]), dim=-1).values, settings)
    if features.min_p:
        least = least.maximum(scaled.amax(dim=-1, keepdim=True) + settings.column(MIN_P).log())
    return least


def _ranked(best: Tensor, settings: Settings) -> Tensor:
    """`best` float32 (rows, n): the best scaled logits in falling order, at least as many as any row's top-k."""
    n = best.shape[1]
    rank = torch.arange(n, device=best.device)
    top_k = settings.top_k.masked_fill(settings.top_k == 0, n)
    share = best.masked_fill(rank >= top_k, float("-inf")).softmax(dim=-1)
    before = share.cumsum(dim=-1) - share
    top_p = settings.column(TOP_P)
    stays = (rank < top_k) & ((before < top_p) | (top_p == 1) | (rank == 0))  # a sum of shares may round to above 1
    limited = (settings.top_k > 0) | (top_p < 1)  # others keep also what is not among the best
    last = stays.sum(dim=-1, keepdim=True) - 1
    return best.gather(1, last).masked_fill(~limited, float("-inf"))


def uniform(seed: Tensor, positions: Tensor) -> Tensor:
    """float32 in [0, 1), the same for the same seed and position: splitmix64 as a counter-based generator.

    Drawn from a counter and not from a generator with a state, so that neighbours in the batch cannot move it.
    """
    bits = _mix(_mix(seed + GOLDEN) + positions * GOLDEN)
    return _shifted(bits, 40).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    for shift, multiplier in MIX:
        x = (x ^ _shifted(x, shift)) * multiplier
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
