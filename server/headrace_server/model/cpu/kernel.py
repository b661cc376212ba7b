"""Paged attention in one compiled pass: rotate, write into the pages, attend. Nothing of the context is copied.

numba compiles it when the model loads, for exactly this model's shape, so that the loops over a head unroll into vector
instructions. Gathering the pages and calling torch's attention reads, writes and reads again what this reads once.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from headrace_server.model.cpu.parallel import thread_count, thread_number

LOG2_E = np.float32(1.4426950408889634)
SMALLEST = np.float32(-126.0)  # exponent of the smallest normal float32
MOST_INT8, MIDDLE_INT8 = np.float32(127), np.int32(128)
LEAST = np.float32(1e-30)  # a row of less is one of zeros
MANY = 1 << 40  # more than any table has; what is read is bounded by positions
PARAMETERS = 18  # int64 each, in the order in which the kernel reads them


@dataclass(frozen=True, slots=True)
class KernelShape:
    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    stored: str  # what the pages hold: float32, bfloat16, or int8 with a bfloat16 scale for each token and head


@intrinsic
def _at(_context: Any, _address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


@njit(fastmath=True, inline="always")
def _exp(x):
    """e**x for x <= 0, in float32: 2**whole by its bits, 2**fraction by a polynomial (relative error below 3e-7)."""
    y = max(x * LOG2_E, SMALLEST)
    whole = np.floor(y)
    fraction = y - whole
    power = np.float32(1.8775767e-3)
    power = power * fraction + np.float32(8.9893397e-3)
    power = power * fraction + np.float32(5.5826318e-2)
    power = power * fraction + np.float32(2.4015361e-1)
    power = power * fraction + np.float32(6.9315308e-1)
    power = power * fraction + np.float32(9.9999994e-1)
    return power * np.int32((np.int32(whole) + 127) << 23).view(np.float32)


@njit(inline="always")
def _same(x):
    return x


@njit(inline="always")
def _widen(x):
    """bfloat16 as its bits -> float32."""
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@njit(inline="always")
def _whole(x):
    """INT8 -> float32."""
    return np.float32(x)


@njit(inline="always")
def _narrow(x):
    """float32 -> the bits of bfloat16, rounded to nearest even."""
    bits = np.float32(x).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
LOAD = {"float32": _same, "bfloat16": _widen, "int8": _whole}


@njit(inline="always")
def _rotate(x, cos, sin, half):
    for d in range(half):
        first, second = x[d], x[d + half]
        x[d] = first * cos[d] - second * sin[d]
        x[d + half] = second * cos[d] + first * sin[d]


@njit(fastmath=True, inline="always")
def _softmax(row, length):
    highest = row[0]
    for at in range(1, length):
        highest = max(highest, row[at])
    total = np.float32(0)
    for at in range(length):
        weight = _exp(row[at] - highest)
        row[at] = weight
        total += weight
    share = np.float32(1) / total
    for at in range(length):
        row[at] *= share


@njit(inline="always")
def _end_of_run(slots, begin, decoding):
    """Rows of one sequence that decode read each other's keys: whoever gets the first takes all, in their order."""
    if begin >= decoding:
        return begin + 1
    if begin > 0 and slots[begin - 1] == slots[begin]:
        return begin  # somebody else's
    end = begin + 1
    while end < decoding and slots[end] == slots[begin]:
        end += 1
    return end


@cache
def compiled(shape: KernelShape) -> Any:
    """A C function void(void *parameters); keep it as long as its `address` is used.

    Parameters (int64): tokens, decoding, pages, pages each, window, longest; then addresses of projected float32
    (tokens, heads + 2 kv heads, dim), keys and values (pages, kv heads, page size, dim), block table int32 (slots,
    pages each), slots int32, positions int32, cos and sin float32 (positions, dim / 2), found float32 (decoding, heads,
    dim), scores float32 (threads, heads per kv head, longest); of INT8 pages also scales of keys and of values bfloat16
    (pages, kv heads, page size). `projected` is rotated in place.
    """
    heads, kv_heads, dim, page_size = shape.heads, shape.kv_heads, shape.head_dim, shape.page_size
    group, half, width = heads // kv_heads, dim // 2, heads + 2 * kv_heads
    stored = STORED[shape.stored]
    rotate_own, put, score, weigh = _rotate_own(shape), _put(shape), _score(shape), _weigh(shape)
    number, count = thread_number(), thread_count()

    @cfunc(types.void(types.voidptr), fastmath=True)
    def attend(data):
        p = carray(data, (PARAMETERS,), np.int64)
        tokens, decoding, pages, each, window, longest = p[0], p[1], p[2], p[3], p[4], p[5]
        x = carray(_at(p[6]), (tokens, width, dim), np.float32)
        keys = carray(_at(p[7]), (pages, kv_heads, page_size, dim), stored)
        values = carray(_at(p[8]), (pages, kv_heads, page_size, dim), stored)
        table = carray(_at(p[9]), (MANY,), np.int32)
        slots = carray(_at(p[10]), (tokens,), np.int32)
        positions = carray(_at(p[11]), (tokens,), np.int32)
        cosines = carray(_at(p[12]), (MANY, half), np.float32)
        sines = carray(_at(p[13]), (MANY, half), np.float32)
        found = carray(_at(p[14]), (decoding, heads, dim), np.float32)
        me, all_of_us = number(), count()
        scores = carray(_at(p[15]), (all_of_us, group, longest), np.float32)[me]
        key_scales = carray(_at(p[16]), (pages, kv_heads, page_size), np.uint16)
        value_scales = carray(_at(p[17]), (pages, kv_heads, page_size), np.uint16)
        for item in range(me, tokens * kv_heads, all_of_us):
            begin = item // kv_heads
            head = item - begin * kv_heads
            for token in range(begin, _end_of_run(slots, begin, decoding)):
                position = positions[token]
                row, place = slots[token] * each, position % page_size
                page = table[row + position // page_size]
                rotate_own(x[token], head, cosines[position], sines[position])
                put(x[token, heads + head], place, keys[page, head], key_scales, page, head)
                put(x[token, heads + kv_heads + head], place, values[page, head], value_scales, page, head)
                if token < decoding:
                    first = max(0, position + 1 - window)
                    score(x[token], head, keys, key_scales, table, row, first, position, scores)
                    for g in range(group):
                        _softmax(scores[g], position + 1 - first)
                    weigh(found[token], head, values, value_scales, table, row, first, position, scores)

    return attend


def _rotate_own(shape: KernelShape) -> Any:
    group, half, heads = shape.heads // shape.kv_heads, shape.head_dim // 2, shape.heads

    @njit(fastmath=True, inline="always")
    def rotate_own(x, head, cos, sin):
        """A token's key and the queries that share it."""
        _rotate(x[heads + head], cos, sin, half)
        for g in range(group):
            _rotate(x[head * group + g], cos, sin, half)

    return rotate_own


def _put(shape: KernelShape) -> Any:
    """A token's key or value of one head to its place in a page."""
    dim = shape.head_dim
    store = _narrow if shape.stored == "bfloat16" else _same

    @njit(fastmath=True, inline="always")
    def put(row, place, kept, scales, page, head):
        for d in range(dim):
            kept[place, d] = store(row[d])

    @njit(fastmath=True, inline="always")
    def put_rounded(row, place, kept, scales, page, head):
        most = np.float32(0)
        for d in range(dim):
            most = max(most, abs(row[d]))
        scales[page, head, place] = _narrow(most / MOST_INT8)
        scale = _widen(scales[page, head, place])
        inverse = np.float32(1) / scale if scale > LEAST else np.float32(0)
        for d in range(dim):
            value = np.rint(row[d] * inverse)
            kept[place, d] = np.int8(min(max(value, -MOST_INT8), MOST_INT8))

    return put_rounded if shape.stored == "int8" else put


def _scale(shape: KernelShape) -> Any:
    @njit(inline="always")
    def one(scales, page, head, place):
        return np.float32(1)

    @njit(inline="always")
    def of_a_token(scales, page, head, place):
        return _widen(scales[page, head, place])

    return of_a_token if shape.stored == "int8" else one


def _score(shape: KernelShape) -> Any:
    dim, page_size = shape.head_dim, shape.page_size
    group, scale = shape.heads // shape.kv_heads, np.float32(dim**-0.5)
    load, scale_of = LOAD[shape.stored], _scale(shape)

    @njit(fastmath=True, inline="always")
    def score(x, head, keys, key_scales, table, row, first, position, scores):
        for block in range(first // page_size, position // page_size + 1):
            page, begin = table[row + block], block * page_size
            for at in range(max(first, begin), min(position + 1, begin + page_size)):
                key = keys[page, head, at - begin]
                scaled = scale * scale_of(key_scales, page, head, at - begin)
                for g in range(group):
                    query = x[head * group + g]
                    product = np.float32(0)
                    for d in range(dim):
                        product += query[d] * load(key[d])
                    scores[g, at - first] = product * scaled

    return score


def _weigh(shape: KernelShape) -> Any:
    dim, page_size, group = shape.head_dim, shape.page_size, shape.heads // shape.kv_heads
    load, scale_of = LOAD[shape.stored], _scale(shape)

    @njit(fastmath=True, inline="always")
    def weigh(found, head, values, value_scales, table, row, first, position, scores):
        for g in range(group):
            for d in range(dim):
                found[head * group + g, d] = np.float32(0)
        for block in range(first // page_size, position // page_size + 1):
            page, begin = table[row + block], block * page_size
            for g in range(group):
                out = found[head * group + g]
                for at in range(max(first, begin), min(position + 1, begin + page_size)):
                    weight = scores[g, at - first] * scale_of(value_scales, page, head, at - begin)
                    value = values[page, head, at - begin]
                    for d in range(dim):
                        out[d] += weight * load(value[d])

    return weigh


@cache
def compiled_norm(width: int) -> Any:
    """RMSNorm, a C function void(void *parameters).

    Parameters (int64): rows, then addresses of x float32 (rows, width), weight float32 (width), found float32 (rows,
    width), and of the float64 epsilon.
    """
    number, count = thread_number(), thread_count()

    @cfunc(types.void(types.voidptr), fastmath=True)
    def norm(data):
        p = carray(data, (PARAMETERS,), np.int64)
        rows = p[0]
        x = carray(_at(p[1]), (rows, width), np.float32)
        weight = carray(_at(p[2]), (width,), np.float32)
        found = carray(_at(p[3]), (rows, width), np.float32)
        epsilon = carray(_at(p[4]), (1,), np.float64)[0]
        for row in range(number(), rows, count()):
            total = np.float32(0)
            for d in range(width):
                total += x[row, d] * x[row, d]
            scale = np.float32(1 / np.sqrt(np.float64(total) / width + epsilon))
            for d in range(width):
                found[row, d] = x[row, d] * scale * weight[d]

    return norm


@cache
def compiled_rounding(width: int) -> Any:
    """Rows to 8 bits around 128, each with a scale of its own, a C function void(void *parameters).

    Parameters (int64): rows, then addresses of x float32 (rows, width), values uint8 (rows, width), and scales float32
    (rows).
    """
    number, count = thread_number(), thread_count()

    @cfunc(types.void(types.voidptr), fastmath=True)
    def rounding(data):
        p = carray(data, (PARAMETERS,), np.int64)
        rows = p[0]
        x = carray(_at(p[1]), (rows, width), np.float32)
        values = carray(_at(p[2]), (rows, width), np.uint8)
        scales = carray(_at(p[3]), (rows,), np.float32)
        for row in range(number(), rows, count()):
            most = np.float32(0)
            for d in range(width):
                most = max(most, abs(x[row, d]))
            scales[row] = most / MOST_INT8
            inverse = MOST_INT8 / most if most > LEAST else np.float32(0)
            for d in range(width):
                values[row, d] = np.uint8(np.int32(np.rint(x[row, d] * inverse)) + MIDDLE_INT8)

    return rounding
