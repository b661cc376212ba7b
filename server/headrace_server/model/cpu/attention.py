"""Attention on a CPU: decode by the compiled kernel, which reads the pages where they are; prompts by torch's SDPA."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace_server.model.attention import Attend, Heads, seen
from headrace_server.model.batch import Batch
from headrace_server.model.cache import KvCache
from headrace_server.model.cpu import parallel
from headrace_server.model.cpu.kernel import PARAMETERS, KernelShape, compiled
from headrace_server.model.descriptor import Fill

STORED = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}
EVERYTHING = 2**40  # a window that nothing falls out of


def is_available(dtype: torch.dtype) -> bool:
    """Of the cache."""
    return parallel.is_available() and dtype in STORED


@dataclass(frozen=True, slots=True)
class Pass:
    """Over a step's rows by a kernel."""

    kernel: Any
    x: Tensor  # float32 (T, heads + 2 KV heads, head_dim)
    found: Tensor  # float32 (T, heads, head_dim), to be filled for those who attend
    attending: int  # the first ones of the step
    longest: int  # tokens that one of them reads at most, its own included


class CpuAttention:
    """Belongs to one thread."""

    def __init__(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor) -> None:
        """cos and sin: float32 (positions, head_dim / 2). Compiles: one to two seconds."""
        self._heads = heads
        self._cache = cache
        self._cos = cos.contiguous()
        self._sin = sin.contiguous()
        stored = STORED[cache.keys.dtype]
        self._kernel = compiled(KernelShape(heads.query, heads.kv, heads.dim, cache.page_size, stored))
        self._parameters = np.zeros(PARAMETERS, dtype=np.int64)
        self._scratch = Scratch(), Scratch()  # of keys, of values

    def over(self, batch: Batch) -> Attend:
        return partial(self._attend, batch=batch)

    def _attend(self, projected: Tensor, layer: int, window: int | None, batch: Batch) -> Tensor:
        x = projected.float().contiguous()
        found = torch.empty(len(x), self._heads.query, self._heads.dim)
        self._run(Pass(self._kernel, x, found, batch.layout.decoding, batch.layout.longest), layer, window, batch)
        for fill in batch.layout.fills:
            found[fill.rows] = self._fill(x[fill.rows], layer, window, batch, fill)
        return found.flatten(1).to(projected.dtype)

    def _run(self, run: Pass, layer: int, window: int | None, batch: Batch) -> None:
        """Rotates all rows, writes their keys and values into the pages, and attends for the first ones."""
        threads, longest = torch.get_num_threads(), max(1, run.longest)
        scores = torch.empty(threads, self._heads.query // self._heads.kv, longest)
        tensors = (
            run.x, self._cache.keys[layer], self._cache.values[layer], batch.pages, batch.slots, batch.positions,
            self._cos, self._sin, run.found, scores,
        )  # fmt: skip
        scales = self._cache.scales
        self._parameters[:] = [
            len(run.x), run.attending, self._cache.pages + 1, batch.pages.shape[1], window or EVERYTHING, longest,
            *(tensor.data_ptr() for tensor in tensors),
            *((each[layer].data_ptr() for each in scales) if scales else (0, 0)),
        ]  # fmt: skip
        parallel.in_parallel(run.kernel.address, self._parameters.ctypes.data, threads)

    def _fill(self, x: Tensor, layer: int, window: int | None, batch: Batch, fill: Fill) -> Tensor:
        """x: the rotated rows of one chunk -> float32 (rows, heads, head_dim)."""
        query, kv = self._heads.query, self._heads.kv
        # Those that share a KV head, beside each other.
        queries = x[:, :query].transpose(0, 1).reshape(kv, query // kv, fill.tokens, -1)
        # From pages in INT8 its own keys are read back, too: how a prompt was cut into chunks must change nothing.
        if fill.start or self._cache.scales:
            keys, values = self._read(layer, batch, fill)
        else:
            keys, values = x[:, query : query + kv].transpose(0, 1), x[:, query + kv :].transpose(0, 1)
        whole = fill.start == 0 and (window is None or fill.tokens <= window)
        mask = None if whole else seen(batch.positions[fill.rows], fill.end, window)
        # Shared by a stride of 0: enable_gqa copies a KV head for each of its queries (512 rows after 3,584: 129 ms
        # instead of 47 ms).
        keys, values = (each[:, None].expand(-1, query // kv, -1, -1) for each in (keys, values))
        found = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=whole)
        return found.flatten(0, 1).transpose(0, 1)

    def _read(self, layer: int, batch: Batch, fill: Fill) -> tuple[Tensor, Tensor]:
        """What earlier chunks left in the cache, and this one: (kv_heads, tokens, head_dim). Until the next call."""
        pages = batch.pages[fill.slot, : -(-fill.end // self._cache.page_size)]
        scales = self._cache.scales or (None, None)
        keys, values = (
            scratch.gathered(
                pool[layer].transpose(1, 2), pages, None if scale is None else scale[layer].transpose(1, 2)
            )
            for scratch, pool, scale in zip(self._scratch, (self._cache.keys, self._cache.values), scales, strict=True)
        )
        return keys[:, : fill.end], values[:, : fill.end]


class Scratch:
    """Memory in which pages are put together. Kept: fresh memory of a long context has to be mapped, page by page."""

    def __init__(self) -> None:
        self._selected = torch.empty(0)
        self._joined = torch.empty(0)

    def gathered(self, pool: Tensor, pages: Tensor, scales: Tensor | None) -> Tensor:
        """pool (pages, kv_heads, page_size, head_dim), contiguous -> float32 (kv_heads, tokens, head_dim).

        scales (pages, kv_heads, page_size): of what is in INT8.
        """
        kv_heads, page_size, dim = pool.shape[1:]
        count = len(pages) * kv_heads * page_size * dim
        if len(self._joined) < count:
            self._selected = torch.empty(2 * count, dtype=pool.dtype)
            self._joined = torch.empty(2 * count)
        selected = self._selected[:count].view(len(pages), kv_heads, page_size, dim)
        torch.index_select(pool, 0, pages, out=selected)
        joined = self._joined[:count].view(kv_heads, len(pages), page_size, dim)
        joined.copy_(selected.transpose(0, 1))
        if scales is not None:
            joined *= scales.index_select(0, pages).transpose(0, 1).unsqueeze(3)
        return joined.view(kv_heads, -1, dim)
