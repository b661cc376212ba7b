"""Attention over the paged cache by gathering pages and torch's SDPA, in float32: plain, the same on every device.

It copies what it reads, so it is the oracle that the faster paths are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from headrace_server.model.batch import Batch
from headrace_server.model.cache import KvCache
from headrace_server.model.descriptor import Fill
from headrace_server.model.rope import rotate


@dataclass(frozen=True, slots=True)
class Heads:
    query: int
    kv: int  # each is shared by query / kv query heads
    dim: int


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorm of each query and key head before it is rotated, as Qwen3 has it."""

    weights: tuple[Tensor, ...]  # one a layer: (query + kv heads, head_dim)
    epsilon: float


# projected (T, query + 2 kv heads, head_dim), which may be written into; the layer's number; its window, in tokens that
# a token sees, itself included, None = all before it -> (T, query heads * head_dim).
# Writes the step's keys and values into the cache.
Attend = Callable[[Tensor, int, int | None], Tensor]


class Attention(Protocol):
    """What happens between the projections of a layer: norms of heads, positions, cache, attention."""

    def over(self, batch: Batch) -> Attend:
        """For one step: what its layers share is computed here, once."""


class NormedHeads:
    """Norms of heads, before an attention that has none."""

    def __init__(
        self, attention: Attention, norms: HeadNorms, heads: Heads, normed: Callable[[Tensor], Tensor]
    ) -> None:
        """`normed`: (T, heads, head_dim) -> the same shape, by a weight of 1."""
        self._attention = attention
        self._norms = norms
        self._heads = heads
        self._normed = normed

    def over(self, batch: Batch) -> Attend:
        return partial(self._attend, self._attention.over(batch))

    def _attend(self, attend: Attend, projected: Tensor, layer: int, window: int | None) -> Tensor:
        asked = projected[:, : -self._heads.kv]  # queries and keys at once
        asked.copy_(self._normed(asked) * self._norms.weights[layer])
        return attend(projected, layer, window)


def with_norms(attention: Attention, norms: HeadNorms | None, heads: Heads) -> Attention:
    """In plain torch."""
    if norms is None:
        return attention
    return NormedHeads(attention, norms, heads, partial(rms_norm, normalized_shape=(heads.dim,), eps=norms.epsilon))


class GatherAttention:
    def __init__(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor) -> None:
        """cos and sin: float32 (positions, head_dim / 2)."""
        self._heads = heads
        self._cache = cache
        self._cos = cos
        self._sin = sin

    def over(self, batch: Batch) -> Attend:
        return partial(self._attend, batch=batch)

    def _attend(self, projected: Tensor, layer: int, window: int | None, batch: Batch) -> Tensor:
        cos, sin = (table[batch.positions].unsqueeze(1).to(projected.dtype) for table in (self._cos, self._sin))
        rotated = rotate(projected[:, : -self._heads.kv], cos, sin)  # queries and keys at once
        keys, values = rotated[:, self._heads.query :], projected[:, -self._heads.kv :]
        self._cache.write(layer, batch.cache_rows, keys, values)
        queries = rotated[:, : self._heads.query]
        decoding = batch.layout.decoding
        parts = [self._decode(queries[:decoding], layer, window, batch)] if decoding else []
        parts += [self._fill(queries[fill.rows], layer, window, batch, fill) for fill in batch.layout.fills]
        return torch.cat(parts).to(projected.dtype).flatten(1)

    def _decode(self, queries: Tensor, layer: int, window: int | None, batch: Batch) -> Tensor:
        """One query a sequence: the heads that share a KV head are queries of it. Padded to the longest."""
        sequences = len(queries)
        pages = batch.pages[batch.slots[:sequences], : self._pages(batch.layout.longest)]
        visible = seen(batch.positions[:sequences], pages.shape[1] * self._cache.page_size, window)
        keys, values = self._read(layer, pages, visible)
        grouped = queries.float().view(sequences, self._heads.kv, -1, self._heads.dim)
        mask = visible[:, None, None, :]
        return scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).view(queries.shape)

    def _fill(self, queries: Tensor, layer: int, window: int | None, batch: Batch, fill: Fill) -> Tensor:
        pages = batch.pages[fill.slot : fill.slot + 1, : self._pages(fill.end)]
        visible = seen(batch.positions[fill.rows], pages.shape[1] * self._cache.page_size, window)
        keys, values = self._read(layer, pages, visible.any(0, keepdim=True))
        asked = queries.float().transpose(0, 1).unsqueeze(0)
        found = scaled_dot_product_attention(asked, keys, values, attn_mask=visible[None, None], enable_gqa=True)
        return found.squeeze(0).transpose(0, 1)

    def _read(self, layer: int, pages: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """What nobody sees is whatever its page's last owner left; its NaN would not be masked: 0 * NaN is NaN."""
        hidden = ~visible[:, None, :, None]
        keys, values = self._cache.gather(layer, pages)
        return keys.masked_fill_(hidden, 0), values.masked_fill_(hidden, 0)

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self._cache.page_size)


def seen(positions: Tensor, keys: int, window: int | None) -> Tensor:
    """bool (queries, keys): a token sees itself and what is before it, as far as the window reaches."""
    distance = positions.unsqueeze(1) - torch.arange(keys, device=positions.device)
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)
