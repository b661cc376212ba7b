"""What a kernel must compute, on any device: the interpreter's CPU or a GPU. Each raises AssertionError if it does not.

Expected values come from the torch function beside the kernel, on the same tensors. What a kernel must not read holds
NaN, and what it must not write is compared too.
"""

from dataclasses import dataclass

import torch
from headrace_server.model.cache import in_int8
from headrace_server.model.kernels.add_rms_norm import add_rms_norm, add_rms_norm_in_torch
from headrace_server.model.kernels.layout import Packed
from headrace_server.model.kernels.paged_attention import attend_paged, attend_paged_in_torch
from headrace_server.model.kernels.rope_write import HeadNorm, Places, rope_write, rope_write_in_torch
from headrace_server.model.kernels.silu_mul import silu_mul, silu_mul_in_torch
from torch import Tensor
from torch.testing import assert_close

EPS = 1e-5
# Of the value, or of the usual value where terms cancel. A unit in the last place of bfloat16 is up to 0.008, and the
# interpreter cuts float32 to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.004, torch.bfloat16: 0.02}


def check_add_rms_norm(tokens: int, width: int, dtype: torch.dtype, device: str) -> None:
    x, residual = (a_tensor(tokens, width, dtype=dtype, device=device) for _ in range(2))
    weight = 1 + a_tensor(width, dtype=dtype, device=device) / 8
    expected_sum = residual.clone()
    expected = add_rms_norm_in_torch(x, expected_sum, weight, EPS)
    equal(add_rms_norm(x, residual, weight, EPS), expected)
    equal(residual, expected_sum)


def check_silu_mul(tokens: int, width: int, dtype: torch.dtype, device: str) -> None:
    gate_up = 4 * a_tensor(tokens, 2 * width, dtype=dtype, device=device)
    equal(silu_mul(gate_up), silu_mul_in_torch(gate_up))


def check_rope_write(shape: tuple[int, int, int], normed: bool, dtype: torch.dtype, device: str) -> None:
    """shape: heads, KV heads, head_dim."""
    heads, kv_heads, head_dim = shape
    tokens, page_size, pages = 5, 4, 3
    projected = a_tensor(tokens, heads + 2 * kv_heads, head_dim, dtype=dtype, device=device)
    angles = 7 * torch.rand(9, head_dim // 2, device=device)
    places = Places(
        positions=torch.tensor([0, 3, 8, 1, 4], device=device, dtype=torch.int32),
        rows=torch.tensor([11, 0, 5, 6, 2], device=device, dtype=torch.int32),
        cos=angles.cos(),
        sin=angles.sin(),
    )
    weights = [1 + a_tensor(head_dim, dtype=dtype, device=device) / 8 for _ in range(2)]
    norm = HeadNorm(*weights, eps=EPS) if normed else None
    pool = [a_tensor(pages, page_size, kv_heads, head_dim, dtype=dtype, device=device) for _ in range(2)]
    expected_pool = [pages.clone() for pages in pool]
    expected = rope_write_in_torch(projected, places, *expected_pool, norm)
    equal(rope_write(projected, places, *pool, norm), expected)
    equal(pool[0], expected_pool[0])
    assert_close(pool[1], expected_pool[1], rtol=0, atol=0)


def check_rope_write_in_int8(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    """What is kept, times its scale, is within a step of what torch would keep; and only there anything is written."""
    heads, kv_heads, head_dim = shape
    tokens, page_size, pages = 3, 4, 2
    projected = a_tensor(tokens, heads + 2 * kv_heads, head_dim, dtype=dtype, device=device)
    projected[1] = 0
    angles = 7 * torch.rand(9, head_dim // 2, device=device)
    numbers = torch.tensor([[0, 3, 8], [7, 0, 5]], device=device, dtype=torch.int32)
    places = Places(numbers[0], numbers[1], angles.cos(), angles.sin())
    size = (pages, page_size, kv_heads, head_dim)
    pool = [torch.full(size, 99, dtype=torch.int8, device=device) for _ in range(2)]
    scales = tuple(torch.full(size[:3], 3.0, dtype=torch.bfloat16, device=device) for _ in range(2))
    expected_pool, expected_scales = [each.clone() for each in pool], tuple(each.clone() for each in scales)
    expected = rope_write_in_torch(projected, places, *expected_pool, None, expected_scales)  # type: ignore[arg-type]
    equal(rope_write(projected, places, *pool, None, scales), expected)  # type: ignore[arg-type]
    for kept, of, right, of_right in zip(pool, scales, expected_pool, expected_scales, strict=True):
        step = of_right.float().unsqueeze(3)
        # A step, and what the interpreter cuts off the scale where a GPU rounds.
        assert ((kept.float() * of.float().unsqueeze(3) - right.float() * step).abs() <= 1.51 * step + 1e-6).all()
        untouched = [row for row in range(pages * page_size) if row not in numbers[1].tolist()]
        assert torch.equal(kept.flatten(0, 1)[untouched], right.flatten(0, 1)[untouched])
        assert torch.equal(of.flatten(0, 1)[untouched], of_right.flatten(0, 1)[untouched])
        assert (kept.abs() <= 127).all()


@dataclass(frozen=True, slots=True)
class Sequences:
    """A packed step: for each sequence, its queries and its keys, in tokens."""

    asked: tuple[int, ...]
    used: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    window: int | None = None
    room: int | None = None  # tokens that any sequence may grow to; None: the longest's length


def check_attend_paged(case: Sequences, dtype: torch.dtype, device: str) -> None:
    step = a_step(case, dtype, device)
    equal(attend_paged(*step, case.window), attend_paged_in_torch(*step, case.window))


def check_attend_paged_in_int8(case: Sequences, dtype: torch.dtype, device: str) -> None:
    """What nobody owns has scales of NaN."""
    queries, keys, values, packed = a_step(case, dtype, device)
    pools, scales = zip(*(in_int8(pool) for pool in (keys, values)), strict=True)
    found = attend_paged(queries, *pools, packed, case.window, scales=scales)
    equal(found, attend_paged_in_torch(queries, *pools, packed, case.window, scales=scales))


def check_neighbours_change_nothing(case: Sequences, dtype: torch.dtype, device: str) -> None:
    """Each sequence alone, with no room to grow, gets the same bits as among the others."""
    queries, keys, values, packed = a_step(case, dtype, device)
    together = attend_paged(queries, keys, values, packed, case.window)
    ends = packed.cu_q.tolist()
    for index, (asked, used) in enumerate(zip(case.asked, case.used, strict=True)):
        of = slice(index, index + 1)
        ends_alone = torch.tensor([0, asked], dtype=torch.int32, device=device)
        only = Packed(ends_alone, packed.used_k[of], packed.block_table[of], asked, used)
        rows = slice(ends[index], ends[index + 1])
        alone = attend_paged(queries[rows], keys, values, only, case.window)
        assert_close(alone, together[rows], rtol=0, atol=0)


def a_step(case: Sequences, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Packed]:
    """queries, key pages, value pages and what is packed; the pages lie in random order."""
    pages_each = -(-max(case.used) // case.page_size)
    sequences = len(case.asked)
    table = torch.randperm(sequences * pages_each).view(sequences, pages_each).to(device, torch.int32)
    shape = (sequences * pages_each, case.page_size, case.kv_heads, case.head_dim)
    keys, values = (torch.full(shape, float("nan"), dtype=dtype, device=device) for _ in range(2))
    for index, used in enumerate(case.used):
        place = torch.arange(used, device=device)
        rows = table[index].long()[place // case.page_size] * case.page_size + place % case.page_size
        for pool in (keys, values):
            pool.flatten(0, 1)[rows] = a_tensor(used, case.kv_heads, case.head_dim, dtype=dtype, device=device)
    packed = Packed(
        cu_q=torch.tensor([0, *case.asked]).cumsum(0).to(device, torch.int32),
        used_k=torch.tensor(case.used, dtype=torch.int32, device=device),
        block_table=table,
        max_q=max(case.asked),
        max_k=case.room or max(case.used),
    )
    return a_tensor(sum(case.asked), case.heads, case.head_dim, dtype=dtype, device=device), keys, values, packed


def a_tensor(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def equal(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    tolerance = TOLERANCE[expected.dtype]
    usual = expected.float().square().mean().sqrt().item()
    assert_close(found, expected, rtol=tolerance, atol=tolerance * usual)
