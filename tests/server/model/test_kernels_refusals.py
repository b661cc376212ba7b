"""What the kernels refuse, and how torch's attention is called: seen before anything is launched."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from headrace_server.model.kernels.add_rms_norm import add_rms_norm
from headrace_server.model.kernels.layout import Packed
from headrace_server.model.kernels.paged_attention import attend_paged
from headrace_server.model.kernels.rope_write import Places, rope_write
from headrace_server.model.kernels.silu_mul import silu_mul
from headrace_server.model.kernels.varlen_attention import attend_varlen
from torch import Tensor


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> Tensor:
    return meta(*shape, dtype=torch.int32)


PACKED = Packed(cu_q=ints(3), used_k=ints(2), block_table=ints(2, 4), max_q=1, max_k=1024)
PLACES = Places(positions=ints(2), rows=ints(2), cos=meta(9, 64), sin=meta(9, 64))
QUERIES, POOL = meta(2, 8, 128), meta(8, 256, 2, 128)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        pytest.param(
            lambda: add_rms_norm(meta(2, 64), meta(3, 64), meta(64), 1e-5),
            r"residual must have shape \(2, 64\), got \(3, 64\)",
            id="a residual of other tokens",
        ),
        pytest.param(
            lambda: silu_mul(meta(64, 2).t()),
            r"gate_up must be contiguous, got strides \(1, 2\)",
            id="a transposed view",
        ),
        pytest.param(
            lambda: rope_write(meta(3, 12, 128), PLACES, POOL, POOL, None),
            r"places.positions must have shape \(3,\), got \(2,\)",
            id="tokens without a place",
        ),
        pytest.param(
            lambda: attend_paged(QUERIES, POOL[..., :64], POOL[..., :64], PACKED),
            "key_pages must be contiguous",
            id="part of every page",
        ),
        pytest.param(
            lambda: attend_paged(meta(2, 8, 64), POOL, POOL, PACKED),
            r"queries must have shape \(2, 8, 128\), got \(2, 8, 64\)",
            id="heads of another size",
        ),
        pytest.param(
            lambda: attend_paged(QUERIES, POOL, POOL, replace(PACKED, cu_q=ints(2))),
            r"cu_q must have shape \(3,\), got \(2,\)",
            id="a sequence without queries' ends",
        ),
        pytest.param(
            lambda: attend_paged(QUERIES, meta(8, 24, 2, 128), meta(8, 24, 2, 128), PACKED),
            "the page size must be a power of two, got 24",
            id="a page size that is no power of two",
        ),
        pytest.param(
            lambda: attend_paged(meta(2, 9, 128), POOL, POOL, PACKED),
            "queries have 9 heads, not a multiple of the 2 KV heads",
            id="heads that cannot share",
        ),
        pytest.param(
            lambda: attend_varlen(QUERIES, meta(8, 128, 2, 128), meta(8, 128, 2, 128), PACKED),
            "the page size must be a multiple of 256 for torch's attention, got 128",
            id="pages too small for FlashAttention",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(call: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("window", [None, 512], ids=["all before", "a window"])
def test_torchs_attention_takes_our_layout(window: int | None) -> None:
    found = attend_varlen(QUERIES, POOL, POOL, PACKED, window)
    assert (found.shape, found.dtype, found.device) == (QUERIES.shape, QUERIES.dtype, QUERIES.device)
