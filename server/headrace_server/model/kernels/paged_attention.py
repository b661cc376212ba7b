"""Causal attention over paged keys and values: one Triton kernel for prompts and answers, any page size 2^n.

An answer's one query has little work and much to read, so its keys are split among programs, each with its own
softmax, and a second kernel joins them (flash decoding, Dao et al. 2023). How a sequence is split follows from its own
length and from `max_q`: among sequences of one query each, neighbours cannot change a bit of a result. So answers are
best asked for apart from prompts.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace_server.model.kernels.layout import Packed, Scales, require_contiguous, require_scales, require_shape

SPLIT_KEYS = 256  # a split reads at least so many keys: less is not worth joining
PROGRAMS = 128  # that one sequence may be split into, over all its KV heads
MAX_SPLITS = 64
LOG2_E = 1.4426950408889634


def attend_paged(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    packed: Packed,
    window: int | None = None,
    *,
    scales: Scales | None = None,
) -> Tensor:
    """queries (T, heads, head_dim) -> the same shape and dtype; a sequence without keys gets zeros.

    key_pages and value_pages (pages, page_size, kv_heads, head_dim); in INT8 with `scales` of both (pages,
    page_size, kv_heads). window: a query sees so many keys, its own included; None: all before it. Scores and sums are
    float32. A first call of its kind compiles: what counts is the tile for max_q and, for few queries, max_k up to a
    power of two. Raises ValueError for tensors that do not fit.
    """
    _check(queries, key_pages, value_pages, packed)
    require_scales(key_pages, scales)
    tokens, heads, head_dim = queries.shape
    page_size, kv_heads = key_pages.shape[1:3]
    tiling = _tiling(heads // kv_heads, kv_heads, head_dim * queries.dtype.itemsize, packed.max_q, packed.max_k)
    head_block = max(triton.next_power_of_2(head_dim), 16)
    out = torch.empty_like(queries)
    parts, masses = out, out  # written only if there are splits to join
    if tiling.splits > 1:
        parts = queries.new_empty((tokens, heads, tiling.splits, head_dim), dtype=torch.float32)
        masses = queries.new_empty((tokens, heads, tiling.splits), dtype=torch.float32)
    _attend[(tiling.splits, tiling.query_tiles, len(packed.used_k) * kv_heads)](
        queries,
        key_pages,
        value_pages,
        *(scales or (None, None)),
        packed.cu_q,
        packed.used_k,
        packed.block_table,
        parts,
        masses,
        head_dim**-0.5 * LOG2_E,
        packed.block_table.shape[1],
        kv_heads=kv_heads,
        group=heads // kv_heads,
        head_dim=head_dim,
        head_block=head_block,
        page_size=page_size,
        window=window or 0,
        tile_queries=tiling.tile_queries,
        rows=tiling.rows,
        block_keys=tiling.block_keys,
        splits=tiling.splits,
        split_keys=SPLIT_KEYS,
        num_warps=4,
        num_stages=tiling.stages,
        enable_fp_fusion=True,
    )
    if tiling.splits > 1:
        join = {"head_dim": head_dim, "head_block": head_block, "splits": tiling.splits}
        _join[(tokens, heads)](parts, masses, out, **join, num_warps=4, enable_fp_fusion=True)
    return out


def attend_paged_in_torch(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    packed: Packed,
    window: int | None = None,
    *,
    scales: Scales | None = None,
) -> Tensor:
    """What `attend_paged` computes: gathers the pages of one sequence after the other, in float32."""
    if scales is not None:
        pools = zip((key_pages, value_pages), scales, strict=True)
        key_pages, value_pages = (pool.float() * scale.float().unsqueeze(3) for pool, scale in pools)
    found = torch.zeros_like(queries)
    ends = packed.cu_q.tolist()
    for index, used in enumerate(packed.used_k.tolist()):
        rows = slice(ends[index], ends[index + 1])
        if used == 0 or rows.start == rows.stop:
            continue
        pages = packed.block_table[index].long()
        keys, values = (pool[pages].flatten(0, 1)[:used].float().transpose(0, 1) for pool in (key_pages, value_pages))
        asked = queries[rows].float().transpose(0, 1)
        behind = torch.arange(used - asked.shape[1], used).unsqueeze(1) - torch.arange(used)
        visible = ((behind >= 0) & (behind < (window or used))).to(queries.device)
        heads = scaled_dot_product_attention(asked[None], keys[None], values[None], attn_mask=visible, enable_gqa=True)
        found[rows] = heads[0].transpose(0, 1).to(queries.dtype)
    return found


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut into programs. The numbers are reasoned, not yet measured on a device."""

    tile_queries: int  # queries of one program; with the heads that share a KV head they are the rows of its tile
    query_tiles: int
    rows: int  # a power of two, at least 16: the smallest tile of a tensor core
    block_keys: int  # read at a time
    splits: int  # programs that share the keys of one tile
    stages: int  # blocks in flight


@cache
def _tiling(group: int, kv_heads: int, head_bytes: int, max_q: int, max_k: int) -> Tiling:
    rows = max(min(triton.next_power_of_2(max_q * group), 64), triton.next_power_of_2(group), 16)
    tile_queries = rows // group
    query_tiles = triton.cdiv(max_q, tile_queries)
    if query_tiles > 1:  # enough programs without sharing keys
        return Tiling(tile_queries, query_tiles, rows, _block_keys(head_bytes), splits=1, stages=3)
    most = min(max(PROGRAMS // kv_heads, 1), MAX_SPLITS, triton.cdiv(max_k, SPLIT_KEYS))
    splits = triton.next_power_of_2(most)
    # A key's address waits for its page's number; with fewer stages than 5 the compiler keeps one block in flight.
    return Tiling(tile_queries, query_tiles, rows, _block_keys(head_bytes), splits, stages=5)


def _block_keys(head_bytes: int) -> int:
    """Blocks of 16 KiB; of 8 where a head is wide, or float32 and 32 keys together spill registers."""
    return 64 if head_bytes <= 256 else 16


def _check(queries: Tensor, key_pages: Tensor, value_pages: Tensor, packed: Packed) -> None:
    require_contiguous(queries=queries, key_pages=key_pages, value_pages=value_pages)
    require_contiguous(cu_q=packed.cu_q, used_k=packed.used_k, block_table=packed.block_table)
    page_size, kv_heads, head_dim = key_pages.shape[1:]
    tokens, heads, _ = queries.shape
    sequences = len(packed.used_k)
    require_shape("value_pages", value_pages, tuple(key_pages.shape))
    require_shape("queries", queries, (tokens, heads, head_dim))
    require_shape("cu_q", packed.cu_q, (sequences + 1,))
    require_shape("block_table", packed.block_table, (sequences, packed.block_table.shape[-1]))
    if page_size & (page_size - 1):
        raise ValueError(f"the page size must be a power of two, got {page_size}")
    if heads % kv_heads:
        raise ValueError(f"queries have {heads} heads, not a multiple of the {kv_heads} KV heads")


@triton.jit(do_not_specialize_on_alignment=["cu_q", "used_k"])  # views into a step's numbers, which begin anywhere
def _attend(
    queries,
    key_pages,
    value_pages,
    key_scales,
    value_scales,
    cu_q,
    used_k,
    block_table,
    parts,
    masses,
    scale,
    table_width,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    page_size: tl.constexpr,
    window: tl.constexpr,
    tile_queries: tl.constexpr,
    rows: tl.constexpr,
    block_keys: tl.constexpr,
    splits: tl.constexpr,
    split_keys: tl.constexpr,
):
    """One program: a tile of one sequence's queries, one KV head with the heads that share it, one split of the keys.

    `scale` holds log2(e), so that exponentials are of base two. A row of the tile is a query and a head.
    """
    split = tl.program_id(0)
    first_query = tl.program_id(1) * tile_queries
    sequence = tl.program_id(2) // kv_heads
    kv_head = tl.program_id(2) % kv_heads
    packed_at = tl.load(cu_q + sequence)
    asked = tl.load(cu_q + sequence + 1) - packed_at
    if first_query >= asked:
        return
    used = tl.load(used_k + sequence)
    table = block_table + sequence.to(tl.int64) * table_width

    row = tl.arange(0, rows)
    query = first_query + row // group
    is_row = (row < tile_queries * group) & (query < asked)
    position = used - asked + query
    column = tl.arange(0, head_block)
    is_column = column < head_dim
    head_at = (packed_at + query).to(tl.int64) * (kv_heads * group) + kv_head * group + row % group
    is_value = is_row[:, None] & is_column[None, :]
    q = tl.load(queries + head_at[:, None] * head_dim + column[None, :], is_value, 0.0)

    last = tl.minimum(used - asked + first_query + tile_queries, used)  # one past the last key that this tile sees
    start = 0
    if window > 0:
        start = tl.maximum(used - asked + first_query - window + 1, 0) // block_keys * block_keys
    begin, end = _part(start, last, split, block_keys, splits, split_keys)

    highest = tl.full([rows], float("-inf"), tl.float32)
    mass = tl.full([rows], 0.0, tl.float32)
    total = tl.full([rows, head_block], 0.0, tl.float32)
    for at in range(begin, end, block_keys):
        key = at + tl.arange(0, block_keys)
        is_key = key < end
        pool_row = _pool_rows(table, key, is_key, at, page_size, block_keys)
        token_head = pool_row * kv_heads + kv_head
        key_at = token_head * head_dim
        is_wanted = is_key[:, None] & is_column[None, :]
        keys = tl.load(key_pages + key_at[:, None] + column[None, :], is_wanted, 0.0)
        values = tl.load(value_pages + key_at[:, None] + column[None, :], is_wanted, 0.0)

        scores = _scaled(tl.dot(q, tl.trans(keys.to(q.dtype)), input_precision="ieee"), key_scales, token_head, is_key)
        visible = is_key[None, :] & (key[None, :] <= position[:, None])
        if window > 0:
            visible = visible & (key[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores * scale, float("-inf"))
        weights, kept, highest = _weigh(scores, highest)
        mass = mass * kept + tl.sum(weights, 1)
        weights = _scaled(weights, value_scales, token_head, is_key)
        total = total * kept[:, None] + tl.dot(weights.to(q.dtype), values.to(q.dtype), input_precision="ieee")

    safe = tl.where(mass > 0.0, mass, 1.0)  # a row that saw no key: zeros, of mass 2 ** -inf
    found = total / safe[:, None]
    part_at = head_at * splits + split
    tl.store(parts + part_at[:, None] * head_dim + column[None, :], found.to(parts.dtype.element_ty), is_value)
    if splits > 1:
        tl.store(masses + part_at, highest + tl.log2(safe), is_row)


@triton.jit
def _scaled(x, scales, token_head, is_key):
    """x (rows, keys), each key's column by its scale; as it is where there are none."""
    if scales is not None:
        x = x * tl.load(scales + token_head, is_key, 0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def _pool_rows(table, key, is_key, at, page_size: tl.constexpr, block_keys: tl.constexpr):
    """Where the keys of the block that starts at `at` lie among all pages' tokens, int64."""
    # One page may hold the whole block: both are powers of two, and `at` is a multiple of the block.
    page = tl.load(table + at // page_size) if page_size >= block_keys else tl.load(table + key // page_size, is_key, 0)
    return page.to(tl.int64) * page_size + key % page_size


@triton.jit
def _weigh(scores, highest):
    """One step of the online softmax: weights, the factor for what was summed before, the highest score so far."""
    above = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(above == float("-inf"), 0.0, above)  # a row that has seen no key yet: -inf - -inf is NaN
    return tl.exp2(scores - base[:, None]), tl.exp2(highest - base), above


@triton.jit
def _part(start, last, split, block_keys: tl.constexpr, splits: tl.constexpr, split_keys: tl.constexpr):
    """Which of the keys from `start` to `last` this split reads: whole blocks, and nothing if fewer splits do."""
    used = tl.maximum(tl.minimum(tl.cdiv(last - start, split_keys), splits), 1)
    each = tl.cdiv(tl.cdiv(last - start, used), block_keys) * block_keys
    begin = start + split * each
    return begin, tl.minimum(begin + each, last)


@triton.jit
def _join(parts, masses, out, head_dim: tl.constexpr, head_block: tl.constexpr, splits: tl.constexpr):
    """One program: one head of one query. `masses` holds log2 of each split's sum of exponentials."""
    row = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    split = tl.arange(0, splits)
    column = tl.arange(0, head_block)
    mass = tl.load(masses + row * splits + split)
    highest = tl.max(mass, 0)
    weight = tl.exp2(mass - tl.where(highest == float("-inf"), 0.0, highest))
    is_read = (weight > 0.0)[:, None] & (column < head_dim)[None, :]
    part = tl.load(parts + (row * splits + split)[:, None] * head_dim + column[None, :], is_read, 0.0)
    whole = tl.sum(weight, 0)
    found = tl.sum(part * weight[:, None], 0) / tl.where(whole > 0.0, whole, 1.0)
    tl.store(out + row * head_dim + column, found.to(out.dtype.element_ty), column < head_dim)
