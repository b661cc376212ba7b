"""Attention over the paged cache by gathering pages and torch's SDPA, in float32: plain, the same on every device.

It copies what it reads, so it is the reference that faster paths are compared with, and the path for CPUs.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace_server.model.batch import Batch, Reading
from headrace_server.model.cache import KvCache


def attend(queries: Tensor, layer: int, cache: KvCache, batch: Batch, window: int | None) -> Tensor:
    """queries (T, heads, head_dim) -> the same shape and dtype. The step's own keys and values are in the cache.

    `window`: how many tokens a query sees, itself included; None: all before it.
    """
    decode, prefills = batch.decode, batch.prefills
    if window is not None:
        decode = None if decode is None else _narrowed(decode, batch, window)
        prefills = tuple(_narrowed(reading, batch, window) for reading in prefills)
    parts = [] if decode is None else [_decode(queries[decode.rows], layer, cache, decode)]
    parts += [_prefill(queries[reading.rows], layer, cache, reading) for reading in prefills]
    return torch.cat(parts).to(queries.dtype)


def _narrowed(reading: Reading, batch: Batch, window: int) -> Reading:
    """Also masks what a window of `window` tokens has left behind."""
    keys = torch.arange(reading.mask.shape[-1], device=reading.mask.device)
    behind = keys <= (batch.positions[reading.rows] - window).unsqueeze(1)
    behind = behind[:, None, None, :] if reading is batch.decode else behind[None, None, :, :]
    return replace(reading, mask=reading.mask.masked_fill(behind, float("-inf")))


def _decode(queries: Tensor, layer: int, cache: KvCache, reading: Reading) -> Tensor:
    """One query a sequence: the heads that share a KV head are queries of it, so no key is copied for them."""
    keys, values = cache.gather(layer, reading.pages)
    sequences, kv_heads = keys.shape[:2]
    grouped = queries.float().view(sequences, kv_heads, -1, queries.shape[2])
    return scaled_dot_product_attention(grouped, keys, values, attn_mask=reading.mask).view(queries.shape)


def _prefill(queries: Tensor, layer: int, cache: KvCache, reading: Reading) -> Tensor:
    keys, values = cache.gather(layer, reading.pages)
    asked = queries.float().transpose(0, 1).unsqueeze(0)
    found = scaled_dot_product_attention(asked, keys, values, attn_mask=reading.mask, enable_gqa=True)
    return found.squeeze(0).transpose(0, 1)
