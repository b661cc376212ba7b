"""What the kernels become on a Hopper GPU: Triton and ptxas compile them here, though nothing here can run them.

Sizes are Llama 3.1 8B's: hidden 4096, 32 heads, 8 KV heads of 128, pages of 256 tokens.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from headrace_server.model.kernels.add_rms_norm import add_rms_norm
from headrace_server.model.kernels.layout import Packed
from headrace_server.model.kernels.paged_attention import attend_paged
from headrace_server.model.kernels.rope_write import HeadNorm, Places, rope_write
from headrace_server.model.kernels.silu_mul import silu_mul
from sm90 import Built, built
from torch import Tensor

PAGES = (2, 256, 8, 128)


def test_the_small_kernels_fill_a_multiprocessor_and_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    kernels = built(_a_layer_without_attention, tmp_path)
    assert set(kernels) == {"_add_rms_norm", "_silu_mul", "_rope_write"}
    for kernel in kernels.values():
        assert kernel.stack == 0, kernel
        assert kernel.resident * kernel.warps >= 32, kernel
        assert "LDG.E.128" in kernel.assembly, kernel.name
        assert "STG.E.128" in kernel.assembly, kernel.name


@pytest.mark.parametrize("window", [None, 4096], ids=["all before", "a window"])
def test_an_answers_attention_copies_ahead_and_leaves_room_for_three_programs(
    window: int | None, tmp_path: Path
) -> None:
    kernels = built(_attention(max_q=1, window=window), tmp_path)
    assert set(kernels) == {"_attend", "_join"}
    _copies_pages_ahead(kernels["_attend"])
    assert kernels["_attend"].resident >= 3
    assert kernels["_join"].resident >= 8


def test_a_prompts_attention_multiplies_by_warpgroup(tmp_path: Path) -> None:
    kernels = built(_attention(max_q=512, window=None), tmp_path)
    assert set(kernels) == {"_attend"}
    _copies_pages_ahead(kernels["_attend"])
    assert kernels["_attend"].resident >= 2
    assert "HGMMA" in kernels["_attend"].assembly


@pytest.mark.parametrize("max_q", [1, 512], ids=["an answer", "a prompt"])
def test_pages_in_int8_are_read_on_tensor_cores_without_spills(max_q: int, tmp_path: Path) -> None:
    packed = Packed(cu_q=_ints(3), used_k=_ints(2), block_table=_ints(2, 32), max_q=max_q, max_k=8192)
    places = Places(_ints(2), _ints(2), torch.zeros(8192, 64), torch.zeros(8192, 64))
    pages = torch.zeros(PAGES, dtype=torch.int8)
    scales = (_half(*PAGES[:3]), _half(*PAGES[:3]))

    def layer() -> None:
        rope_write(_half(2, 48, 128), places, pages, pages, None, scales)
        attend_paged(_half(2, 32, 128), pages, pages, packed, scales=scales)

    kernels = built(layer, tmp_path)
    assert kernels["_rope_write"].stack == kernels["_attend"].stack == 0
    assert "MMA." in kernels["_attend"].assembly
    assert kernels["_attend"].resident >= 2


def test_where_a_steps_numbers_begin_does_not_compile_a_kernel_anew(tmp_path: Path) -> None:
    """That would take seconds, in the middle of somebody's answer."""

    def at(offset: int) -> None:
        numbers = _ints(16)[offset:]
        pages = _half(2, 256, 8, 64)  # a head size that no other test compiles for
        places = Places(numbers[:2], _ints(2), torch.zeros(8192, 32), torch.zeros(8192, 32))
        rope_write(_half(2, 48, 64), places, pages, pages, None)
        packed = Packed(cu_q=numbers[:3], used_k=numbers[3:5], block_table=_ints(2, 32), max_q=512, max_k=8192)
        attend_paged(_half(2, 32, 64), pages, pages, packed)

    built(lambda: [at(0), at(1)], tmp_path)
    compiled = sorted(binary.stem for binary in tmp_path.glob("*/*.cubin"))  # in Triton's cache
    assert compiled == ["_attend", "_rope_write"]


def _copies_pages_ahead(kernel: Built) -> None:
    """16 bytes at a time into shared memory while earlier blocks are worked on, on tensor cores, without spills."""
    assert kernel.stack == 0
    assert "LDGSTS.E.BYPASS.128" in kernel.assembly
    assert "MMA." in kernel.assembly


def _a_layer_without_attention() -> None:
    add_rms_norm(_half(2, 4096), _half(2, 4096), _half(4096), 1e-5)
    silu_mul(_half(2, 2 * 14336))
    places = Places(_ints(2), _ints(2), torch.zeros(8192, 64), torch.zeros(8192, 64))
    norm = HeadNorm(_half(128), _half(128), 1e-6)
    rope_write(_half(2, 48, 128), places, _half(*PAGES), _half(*PAGES), norm)


def _attention(max_q: int, window: int | None) -> Callable[[], Tensor]:
    packed = Packed(cu_q=_ints(3), used_k=_ints(2), block_table=_ints(2, 32), max_q=max_q, max_k=8192)
    return lambda: attend_paged(_half(2, 32, 128), _half(*PAGES), _half(*PAGES), packed, window)


def _half(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def _ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)
