"""From the qkv projection to attention in one pass: norm of queries and keys, rotation, keys and values into pages."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import rms_norm

from headrace_server.model.cache import in_int8
from headrace_server.model.kernels.layout import Scales, require_contiguous, require_scales, require_shape


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm of every head before it is rotated, as Qwen3 has it."""

    query: Tensor  # (head_dim)
    key: Tensor  # (head_dim)
    eps: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where each of T tokens stands in its sequence, and where its key and value go."""

    positions: Tensor  # int32 or int64 (T)
    rows: Tensor  # int32 or int64 (T): page * page_size + place in the page
    cos: Tensor  # float32 (positions, head_dim / 2), every position's
    sin: Tensor  # the same


def rope_write(
    projected: Tensor,
    places: Places,
    key_pages: Tensor,
    value_pages: Tensor,
    norm: HeadNorm | None,
    scales: Scales | None = None,
) -> Tensor:
    """projected (T, heads + 2 * kv_heads, head_dim), queries, keys, values -> queries (T, heads, head_dim).

    Writes keys and values into key_pages and value_pages (pages, page_size, kv_heads, head_dim); in INT8 also into
    `scales` of keys and of values (pages, page_size, kv_heads). Computes in float32
    and rounds once. Pairs element i of a head with i + head_dim / 2. Raises ValueError for tensors that do not fit.
    """
    require_contiguous(projected=projected, key_pages=key_pages, value_pages=value_pages)
    require_contiguous(positions=places.positions, rows=places.rows, cos=places.cos, sin=places.sin)
    tokens, together, head_dim = projected.shape
    kv_heads = key_pages.shape[2]
    heads, half = together - 2 * kv_heads, head_dim // 2
    require_shape("key_pages", key_pages, (*key_pages.shape[:3], head_dim))
    require_shape("value_pages", value_pages, tuple(key_pages.shape))
    require_scales(key_pages, scales)
    require_shape("places.positions", places.positions, (tokens,))
    require_shape("places.rows", places.rows, (tokens,))
    require_shape("places.cos", places.cos, (len(places.cos), half))
    require_shape("places.sin", places.sin, tuple(places.cos.shape))
    queries = torch.empty((tokens, heads, head_dim), device=projected.device, dtype=projected.dtype)
    _rope_write[(tokens, kv_heads)](
        projected,
        queries,
        key_pages,
        value_pages,
        *(scales or (None, None)),
        places.positions,
        places.rows,
        places.cos,
        places.sin,
        norm.query if norm else None,
        norm.key if norm else None,
        norm.eps if norm else 0.0,
        kv_heads=kv_heads,
        group=heads // kv_heads,
        group_block=triton.next_power_of_2(heads // kv_heads),
        half=half,
        half_block=triton.next_power_of_2(half),
        num_warps=1,
        enable_fp_fusion=True,
    )
    return queries


def rope_write_in_torch(
    projected: Tensor,
    places: Places,
    key_pages: Tensor,
    value_pages: Tensor,
    norm: HeadNorm | None,
    scales: Scales | None = None,
) -> Tensor:
    """What `rope_write` computes."""
    kv_heads, head_dim = key_pages.shape[2:]
    asked, values = projected[:, :-kv_heads].float(), projected[:, -kv_heads:]
    queries, keys = asked[:, :-kv_heads], asked[:, -kv_heads:]
    if norm is not None:
        queries = rms_norm(queries, (head_dim,), norm.query.float(), norm.eps)
        keys = rms_norm(keys, (head_dim,), norm.key.float(), norm.eps)
    cos, sin = (table[places.positions.long()].unsqueeze(1) for table in (places.cos, places.sin))
    rows = places.rows.long()
    keys = _rotated(keys, cos, sin)
    if scales is None:
        key_pages.flatten(0, 1)[rows] = keys.to(key_pages.dtype)
        value_pages.flatten(0, 1)[rows] = values
    else:
        for pages, of_pages, new in zip((key_pages, value_pages), scales, (keys, values), strict=True):
            pages.flatten(0, 1)[rows], of_pages.flatten(0, 1)[rows] = in_int8(new)
    return _rotated(queries, cos, sin).to(projected.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@triton.jit(do_not_specialize_on_alignment=["positions", "rows"])  # views into a step's numbers, which begin anywhere
def _rope_write(
    projected,
    queries,
    key_pages,
    value_pages,
    key_scales,
    value_scales,
    positions,
    rows,
    cos,
    sin,
    query_norm,
    key_norm,
    eps,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    group_block: tl.constexpr,
    half: tl.constexpr,
    half_block: tl.constexpr,
):
    """One program: one token's KV head and the `group` query heads that share it."""
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    columns = tl.arange(0, half_block)
    inside = (columns < half)[None, :]
    angle = tl.load(positions + token).to(tl.int64) * half + columns
    c = tl.load(cos + angle, columns < half, 0.0)[None, :]
    s = tl.load(sin + angle, columns < half, 0.0)[None, :]

    of_group = tl.arange(0, group_block)[:, None]
    wanted = (of_group < group) & inside
    head_at = (kv_head * group + of_group) * 2 * half + columns[None, :]
    token_at = projected + token * (group + 2) * kv_heads * 2 * half
    first, second = _halves(token_at + head_at, wanted, query_norm, eps, half, half_block)
    _store_halves(queries + token * group * kv_heads * 2 * half + head_at, first, second, c, s, wanted, half)

    row = tl.load(rows + token).to(tl.int64)
    token_head = row * kv_heads + kv_head
    page_at = token_head * 2 * half + columns[None, :]
    key_at = (group * kv_heads + kv_head) * 2 * half + columns[None, :]
    first, second = _halves(token_at + key_at, inside, key_norm, eps, half, half_block)
    value_at = token_at + key_at + kv_heads * 2 * half
    if key_scales is None:
        _store_halves(key_pages + page_at, first, second, c, s, inside, half)
        tl.store(value_pages + page_at, tl.load(value_at, inside), inside)
        tl.store(value_pages + page_at + half, tl.load(value_at + half, inside), inside)
    else:
        turned = second * c + first * s
        _store_rounded(key_pages + page_at, key_scales + token_head, first * c - second * s, turned, inside, half)
        first, second = _halves(value_at, inside, None, eps, half, half_block)
        _store_rounded(value_pages + page_at, value_scales + token_head, first, second, inside, half)


@triton.jit
def _store_rounded(at, scale_at, first, second, wanted, half: tl.constexpr):
    """One head in INT8 and its scale; what is masked is 0."""
    most = tl.max(tl.maximum(tl.abs(first), tl.abs(second)))
    scale = (most / 127.0).to(scale_at.dtype.element_ty)
    tl.store(scale_at, scale)
    wide = scale.to(tl.float32)
    inverse = tl.where(wide > 0.0, 1.0 / wide, 0.0)
    tl.store(at, _nearest(first * inverse).to(tl.int8), wanted)
    tl.store(at + half, _nearest(second * inverse).to(tl.int8), wanted)


@triton.jit
def _nearest(x):
    return tl.minimum(tl.maximum(tl.floor(x + 0.5), -127.0), 127.0)


@triton.jit
def _halves(at, wanted, weight, eps, half: tl.constexpr, half_block: tl.constexpr):
    """Both halves of some heads, in float32 (heads, half_block), normed if there is a weight."""
    first = tl.load(at, wanted, 0.0).to(tl.float32)
    second = tl.load(at + half, wanted, 0.0).to(tl.float32)
    if weight is not None:
        columns = tl.arange(0, half_block)
        scale = tl.rsqrt(tl.sum(first * first + second * second, 1) / (2 * half) + eps)[:, None]
        first = first * scale * tl.load(weight + columns, columns < half, 0.0).to(tl.float32)[None, :]
        second = second * scale * tl.load(weight + half + columns, columns < half, 0.0).to(tl.float32)[None, :]
    return first, second


@triton.jit
def _store_halves(at, first, second, c, s, wanted, half: tl.constexpr):
    tl.store(at, (first * c - second * s).to(at.dtype.element_ty), wanted)
    tl.store(at + half, (second * c + first * s).to(at.dtype.element_ty), wanted)
