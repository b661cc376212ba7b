"""Attention on a GPU, over the pages where they are: norm, rotation, writing in one kernel; then answers, then prompts.

Answers are read by our own kernel: how it cuts a sequence into pieces follows from that sequence alone, so neighbours
cannot move a result by a bit, which seeded answers rely on. Prompts are read by torch's varlen_attn where it can; there
is nothing to cut in them.
"""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import varlen

from headrace_server.model.attention import Attend
from headrace_server.model.batch import Batch
from headrace_server.model.cache import KvCache
from headrace_server.model.kernels.layout import Packed
from headrace_server.model.kernels.paged_attention import attend_paged
from headrace_server.model.kernels.rope_write import HeadNorm, Places, rope_write
from headrace_server.model.kernels.varlen_attention import FLASH_PAGE, attend_varlen

AttendPaged = Callable[[Tensor, Tensor, Tensor, Packed, int | None], Tensor]
HALF = (torch.bfloat16, torch.float16)
FLASH_HEAD = 256  # the widest head that FlashAttention 2 has kernels for; it wants multiples of 8


class GpuAttention:
    def __init__(
        self, cache: KvCache, cos: Tensor, sin: Tensor, prompts: AttendPaged, norms: tuple[HeadNorm, ...] | None
    ) -> None:
        """cos and sin: float32 (positions, head_dim / 2). `prompts`: see `prompt_attention`. `norms`: one a layer."""
        self._cache = cache
        self._cos = cos
        self._sin = sin
        self._prompts = prompts
        self._norms = norms

    def over(self, batch: Batch) -> Attend:
        decoding = batch.layout.decoding
        places = Places(batch.positions, batch.cache_rows, self._cos, self._sin)
        groups: list[tuple[slice, AttendPaged, Packed]] = []
        if decoding:
            groups.append((slice(decoding), attend_paged, self._answers(batch, decoding)))
        if batch.layout.fills:
            groups.append((slice(decoding, None), self._prompts, self._filled(batch, decoding)))
        return partial(self._attend, places=places, groups=groups)

    def _attend(
        self,
        projected: Tensor,
        layer: int,
        window: int | None,
        *,
        places: Places,
        groups: list[tuple[slice, AttendPaged, Packed]],
    ) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        norm = self._norms[layer] if self._norms else None
        if self._cache.scales is None:
            queries = rope_write(projected, places, keys, values, norm)
            parts = [attend(queries[rows], keys, values, packed, window) for rows, attend, packed in groups]
        else:
            scales = (self._cache.scales[0][layer], self._cache.scales[1][layer])
            queries = rope_write(projected, places, keys, values, norm, scales)
            parts = [
                attend_paged(queries[rows], keys, values, packed, window, scales=scales) for rows, _, packed in groups
            ]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found.flatten(1)

    def _answers(self, batch: Batch, count: int) -> Packed:
        """One query each."""
        ends = torch.arange(count + 1, dtype=torch.int32, device=batch.positions.device)
        table = batch.pages.index_select(0, batch.slots[:count])
        return Packed(ends, batch.positions[:count] + 1, table, 1, self._room(batch))

    def _filled(self, batch: Batch, decoding: int) -> Packed:
        slots, positions = batch.slots[decoding:], batch.positions[decoding:]
        begin, end = batch.fill_bounds[:-1], batch.fill_bounds[1:]
        table = batch.pages.index_select(0, slots.index_select(0, begin))
        longest = max(fill.tokens for fill in batch.layout.fills)
        used = positions.index_select(0, end - 1) + 1
        return Packed(batch.fill_bounds, used, table, longest, self._room(batch))

    def _room(self, batch: Batch) -> int:
        """The most keys that a sequence may ever have: steps of any length run the same compiled kernel."""
        return batch.pages.shape[1] * self._cache.page_size


def prompt_attention(cache: KvCache) -> tuple[AttendPaged, str]:
    """And why this one, for the log."""
    reason = _why_not_torchs(cache)
    if reason is None:
        return attend_varlen, f"torch {torch.__version__}'s varlen_attn"
    return attend_paged, f"our own kernel, because {reason}"


def _why_not_torchs(cache: KvCache) -> str | None:
    head_dim = cache.keys.shape[-1]
    if "block_table" not in inspect.signature(varlen.varlen_attn).parameters:
        return f"torch {torch.__version__}'s varlen_attn knows no pages"
    if cache.keys.dtype not in HALF:
        return f"varlen_attn computes in {' and '.join(map(str, HALF))} only"
    if cache.page_size % FLASH_PAGE:
        return f"varlen_attn wants pages of a multiple of {FLASH_PAGE} tokens, they have {cache.page_size}"
    if head_dim > FLASH_HEAD or head_dim % 8:
        return f"varlen_attn has no kernel for heads of {head_dim}"
    return None
