"""Compiled passes that look at one row at a time, in an order that follows from that row alone."""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, types

from headrace_server.model.cpu.kernel import (
    MANY,
    PARAMETERS,
    STORED,
    KernelShape,
    _at,
    _exp,
    _score,
    _softmax,
    _weigh,
)
from headrace_server.model.cpu.parallel import thread_count, thread_number


@cache
def compiled_reader(shape: KernelShape) -> Any:
    """Attention alone, with the parameters of `kernel.compiled`, of which it reads what it needs.

    `projected` is rotated and written into the pages already, so the rows of a prompt may come in any order.
    """
    heads, kv_heads, dim, page_size = shape.heads, shape.kv_heads, shape.head_dim, shape.page_size
    group, width, stored = heads // kv_heads, heads + 2 * kv_heads, STORED[shape.stored]
    score, weigh = _score(shape), _weigh(shape)
    number, count = thread_number(), thread_count()

    @cfunc(types.void(types.voidptr), fastmath=True)
    def read(data):
        p = carray(data, (PARAMETERS,), np.int64)
        tokens, pages, each, window, longest = p[1], p[2], p[3], p[4], p[5]
        x = carray(_at(p[6]), (tokens, width, dim), np.float32)
        keys = carray(_at(p[7]), (pages, kv_heads, page_size, dim), stored)
        values = carray(_at(p[8]), (pages, kv_heads, page_size, dim), stored)
        table = carray(_at(p[9]), (MANY,), np.int32)
        slots = carray(_at(p[10]), (tokens,), np.int32)
        positions = carray(_at(p[11]), (tokens,), np.int32)
        found = carray(_at(p[14]), (tokens, heads, dim), np.float32)
        me, all_of_us = number(), count()
        scores = carray(_at(p[15]), (all_of_us, group, longest), np.float32)[me]
        key_scales = carray(_at(p[16]), (pages, kv_heads, page_size), np.uint16)
        value_scales = carray(_at(p[17]), (pages, kv_heads, page_size), np.uint16)
        for item in range(me, tokens * kv_heads, all_of_us):
            token = item // kv_heads
            head = item - token * kv_heads
            row, position = slots[token] * each, positions[token]
            first = max(0, position + 1 - window)
            score(x[token], head, keys, key_scales, table, row, first, position, scores)
            for g in range(group):
                _softmax(scores[g], position + 1 - first)
            weigh(found[token], head, values, value_scales, table, row, first, position, scores)

    return read


@cache
def compiled_gate(width: int) -> Any:
    """silu(gate) * up, a C function void(void *parameters). torch's has one formula for vectors, one for their ends.

    Parameters (int64): rows, then addresses of both float32 (rows, 2 * width), gate first, and found float32 (rows,
    width).
    """
    number, count = thread_number(), thread_count()

    @cfunc(types.void(types.voidptr))  # no fastmath: a vector's reciprocal is an estimate, a lone number's is not
    def gate(data):
        p = carray(data, (PARAMETERS,), np.int64)
        rows = p[0]
        both = carray(_at(p[1]), (rows, 2 * width), np.float32)
        found = carray(_at(p[2]), (rows, width), np.float32)
        for row in range(number(), rows, count()):
            for d in range(width):
                x = both[row, d]
                small = _exp(-abs(x))  # at most 1
                share = np.float32(1) if x >= 0 else small
                found[row, d] = x * (share / (np.float32(1) + small)) * both[row, width + d]

    return gate
