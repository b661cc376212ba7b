"""The paged KV cache: one pool of fixed-size pages for all requests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.config import EngineConfig, KvCacheDtype
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture

SCALES = torch.bfloat16  # a head of 64 takes 66 bytes with it, of 128 in bfloat16; float32 would make it 68
MOST = 127


@dataclass(frozen=True, slots=True)
class KvCache:
    """With heads apart in memory a page holds all tokens of one head, then all of the next.

    On a CPU one head reads 4 KiB in a row there: attention over 16 x 1,056 tokens took 4.0 ms instead of 7.3 ms on 2
    cores.
    """

    keys: Tensor  # (layers, pages + 1, page_size, kv_heads, head_dim); the last page is trash: nobody's
    values: Tensor  # the same
    # Of keys and of values in INT8: bfloat16 (layers, pages + 1, page_size, kv_heads), one for each token and head.
    scales: tuple[Tensor, Tensor] | None = None

    @property
    def page_size(self) -> int:
        return self.keys.shape[2]

    @property
    def pages(self) -> int:
        return self.keys.shape[1] - 1

    def free(self) -> None:
        """Gives the memory back. Nothing may touch the cache until `take`; every view of it stays valid for after."""
        for tensor in self._tensors():
            tensor.untyped_storage().resize_(0)

    def take(self) -> None:
        """Memory again, at another address, and zeros in it: what is masked is multiplied, too, and might be NaN."""
        for tensor in self._tensors():
            tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size())
            tensor.zero_()

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """rows (tokens): page * page_size + place in the page. keys and values (tokens, kv_heads, head_dim)."""
        page, place = rows // self.page_size, rows % self.page_size
        if self.scales is None:
            self.keys[layer][page, place] = keys
            self.values[layer][page, place] = values
            return
        for pool, scales, new in zip((self.keys, self.values), self.scales, (keys, values), strict=True):
            pool[layer][page, place], scales[layer][page, place] = in_int8(new)

    def gather(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """pages (sequences, pages each) -> keys and values, float32 (sequences, kv_heads, tokens, head_dim)."""
        keys, values = _gather(self.keys[layer], pages), _gather(self.values[layer], pages)
        if self.scales is not None:
            of_keys, of_values = (_gather(scales[layer].unsqueeze(-1), pages) for scales in self.scales)
            keys, values = keys * of_keys, values * of_values
        return keys, values

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.keys, self.values, *(self.scales or ()))


def in_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., head_dim) -> int8 of the same shape and bfloat16 (...): x is about their product."""
    wide = x.float()
    scales = (wide.abs().amax(dim=-1) / MOST).to(SCALES)
    inverse = scales.float().reciprocal().nan_to_num(0.0, posinf=0.0)  # of what is rounded already
    values = (wide * inverse.unsqueeze(-1)).round().clamp(-MOST, MOST)
    return values.to(torch.int8), scales


def cache_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    return dtype if config.kv_cache_dtype is KvCacheDtype.AUTO else torch.int8


def bytes_per_token(shape: Architecture, dtype: torch.dtype) -> int:
    """`dtype`: of the cache."""
    scales = 2 * shape.layers * shape.kv_heads * SCALES.itemsize if dtype == torch.int8 else 0
    return shape.kv_values_per_token * dtype.itemsize + scales


def pages_that_fit(shape: Architecture, config: EngineConfig, dtype: torch.dtype, memory: int) -> int:
    """`dtype`: of the cache; `memory` in bytes.

    Never more than max_running requests of full length could fill. Raises ModelRefused.
    """
    page_bytes = bytes_per_token(shape, dtype) * config.page_size
    pages = memory // page_bytes
    if pages < 1:
        raise ModelRefused(
            f"a KV page of {config.page_size} tokens takes {page_bytes} bytes for this model, the cache has only "
            f"{memory}; raise --kv-cache-mib or lower --page-size"
        )
    return min(pages, config.max_running * pages_for(shape.max_position, config))


def pages_for(tokens: int, config: EngineConfig) -> int:
    return -(-tokens // config.page_size)


def empty_cache(
    shape: Architecture,
    config: EngineConfig,
    pages: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    heads_apart: bool,
) -> KvCache:
    size = [shape.layers, pages + 1, config.page_size, shape.kv_heads, shape.head_dim]
    if heads_apart:
        size[2], size[3] = size[3], size[2]

    def pools(size: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        keys, values = (torch.zeros(size, device=device, dtype=dtype) for _ in ("keys", "values"))
        return (keys.transpose(2, 3), values.transpose(2, 3)) if heads_apart else (keys, values)

    return KvCache(*pools(size, dtype), pools(size[:-1], SCALES) if dtype == torch.int8 else None)


def _gather(pool: Tensor, pages: Tensor) -> Tensor:
    sequences, each = pages.shape
    if pool.is_contiguous():
        found = pool.index_select(0, pages.flatten())
        return found.view(sequences, each * pool.shape[1], *pool.shape[2:]).transpose(1, 2).float()
    # Heads apart: selected as they lie in memory and put together after that, it takes a fifth of the time.
    apart = pool.transpose(1, 2)
    found = apart.index_select(0, pages.flatten()).view(sequences, each, *apart.shape[1:]).transpose(1, 2)
    return found.flatten(2, 3).float()
