"""Attention of each text to itself, in both directions, over texts that lie one after the other."""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace_server.model.encoder.texts import Texts


class TextAttention(Protocol):
    def __call__(self, projected: Tensor, texts: Texts) -> Tensor:
        """projected (T, 3, heads, head_dim): queries, keys, values -> (T, heads * head_dim)."""


class EachText:
    """A call for each text: no padding, and on a CPU no slower than one call for all, which would need a mask."""

    def __call__(self, projected: Tensor, texts: Texts) -> Tensor:
        found = torch.empty_like(projected[:, 0])
        turned = projected.permute(1, 2, 0, 3)  # (3, heads, T, head_dim)
        for begin, end in pairwise(texts.ends):
            queries, keys, values = turned[:, None, :, begin:end]
            found[begin:end] = scaled_dot_product_attention(queries, keys, values)[0].transpose(0, 1)
        return found.flatten(1)


class VarlenAttention:
    """One call of torch's FlashAttention for all texts. CUDA, bfloat16 or float16."""

    def __call__(self, projected: Tensor, texts: Texts) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - a CPU's torch need not have it

        queries, keys, values = projected.unbind(1)
        found: Tensor = varlen_attn(
            queries, keys, values, texts.bounds, texts.bounds, texts.longest, texts.longest, window_size=(-1, -1)
        )  # type: ignore[assignment] # a pair only if asked for more than the output
        return found.flatten(1)
