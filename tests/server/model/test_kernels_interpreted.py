"""The kernels' arithmetic and addresses, on the CPU: Triton's interpreter runs them as they stand."""

from collections.abc import Iterator

import pytest
import torch
from interpreter import Check, interpreter
from kernel_cases import (
    Sequences,
    check_add_rms_norm,
    check_attend_paged,
    check_attend_paged_in_int8,
    check_neighbours_change_nothing,
    check_rope_write,
    check_rope_write_in_int8,
    check_silu_mul,
)

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Check]:
    with interpreter() as check:
        yield check


@BOTH
@pytest.mark.parametrize("width", [64, 96], ids=["a power of two", "any width"])
def test_the_residual_is_added_and_normed(interpreted: Check, width: int, dtype: torch.dtype) -> None:
    interpreted(check_add_rms_norm, 3, width, dtype, "cpu")


@BOTH
@pytest.mark.parametrize("width", [1024, 1500], ids=["one block", "part of a second block"])
def test_the_gate_is_applied(interpreted: Check, width: int, dtype: torch.dtype) -> None:
    interpreted(check_silu_mul, 2, width, dtype, "cpu")


@BOTH
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "with a norm of each head"])
@pytest.mark.parametrize(
    "shape",
    [pytest.param((4, 4, 16), id="a KV head each"), pytest.param((6, 2, 12), id="three heads share a KV head")],
)
def test_queries_and_keys_are_rotated_and_written(
    interpreted: Check, shape: tuple[int, int, int], normed: bool, dtype: torch.dtype
) -> None:
    interpreted(check_rope_write, shape, normed, dtype, "cpu")


@pytest.mark.parametrize("shape", [(4, 4, 16), (6, 2, 12)], ids=["a KV head each", "three heads share a KV head"])
def test_keys_and_values_are_written_in_int8_with_their_scales(interpreted: Check, shape: tuple[int, int, int]) -> None:
    interpreted(check_rope_write_in_int8, shape, torch.float32, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Sequences((1, 1, 1), (1, 260, 0), 4, 2, 16, 16), id="answers, one key, many, none"),
        pytest.param(Sequences((1, 1), (300, 90), 4, 1, 24, 32, window=70), id="a window, one KV head for all"),
        pytest.param(Sequences((40, 7), (40, 90), 6, 2, 24, 16), id="prompts, whole and continued, three share a head"),
    ],
)
def test_pages_in_int8_are_read_with_their_scales(interpreted: Check, case: Sequences, dtype: torch.dtype) -> None:
    interpreted(check_attend_paged_in_int8, case, dtype, "cpu")


# float16 stands for the 16-bit types: the interpreter multiplies matrices of bfloat16 as if their bits were integers.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Sequences((1, 1, 1), (1, 260, 0), 4, 2, 16, 16), id="answers, one key, many, none"),
        pytest.param(Sequences((1, 1), (300, 9), 4, 2, 16, 256), id="a page of many blocks"),
        pytest.param(Sequences((1, 1), (300, 9), 4, 4, 16, 4, room=1000), id="far more room than keys, a KV head each"),
        pytest.param(Sequences((1, 1), (300, 90), 4, 1, 24, 32, window=70), id="a window, one KV head for all"),
        pytest.param(Sequences((40, 7), (40, 90), 6, 2, 24, 16), id="prompts, whole and continued, three share a head"),
        pytest.param(Sequences((20, 1, 3), (50, 6, 3), 2, 2, 16, 64, window=8), id="prompts and an answer in a window"),
        pytest.param(Sequences((3, 2), (270, 64), 4, 2, 16, 64), id="few queries each, as speculation asks"),
    ],
)
def test_queries_see_what_is_before_them(interpreted: Check, case: Sequences, dtype: torch.dtype) -> None:
    interpreted(check_attend_paged, case, dtype, "cpu")


def test_a_sequence_gets_the_same_bits_in_any_company(interpreted: Check) -> None:
    case = Sequences((1, 1, 1), (1, 600, 290), 4, 2, 16, 16, room=1300)
    interpreted(check_neighbours_change_nothing, case, torch.float32, "cpu")
