"""The kernels on a GPU, at sizes of real models. The same checks run on the CPU through Triton's interpreter."""

import pytest
import torch
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

pytestmark = pytest.mark.gpu
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@BOTH
@pytest.mark.parametrize("width", [896, 4096, 5120])
def test_the_residual_is_added_and_normed(device: str, width: int, dtype: torch.dtype) -> None:
    check_add_rms_norm(300, width, dtype, device)


@BOTH
@pytest.mark.parametrize("width", [4864, 14336])
def test_the_gate_is_applied(device: str, width: int, dtype: torch.dtype) -> None:
    check_silu_mul(300, width, dtype, device)


@BOTH
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "with a norm of each head"])
@pytest.mark.parametrize("shape", [(32, 8, 128), (14, 2, 64), (32, 32, 80)], ids=str)
def test_queries_and_keys_are_rotated_and_written(
    device: str, shape: tuple[int, int, int], normed: bool, dtype: torch.dtype
) -> None:
    check_rope_write(shape, normed, dtype, device)


@BOTH
@pytest.mark.parametrize("shape", [(32, 8, 128), (14, 2, 64)], ids=str)
def test_keys_and_values_are_written_in_int8(device: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    check_rope_write_in_int8(shape, dtype, device)


CASES = [
    pytest.param(Sequences((1,) * 4, (1, 8191, 300, 0), 32, 8, 128, 256, room=32768), id="answers"),
    pytest.param(Sequences((1,) * 3, (5000, 70, 64), 28, 4, 128, 16), id="small pages, seven share a head"),
    pytest.param(Sequences((1, 1), (9000, 4097), 32, 8, 128, 256, window=4096), id="answers in a window"),
    pytest.param(Sequences((512, 1, 77), (512, 300, 4000), 32, 8, 128, 256), id="prompts and an answer"),
    pytest.param(Sequences((600, 130), (600, 2000), 14, 2, 64, 256, window=512), id="prompts in a window"),
    pytest.param(Sequences((5, 5), (3000, 5), 32, 8, 128, 256), id="speculation"),
]


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_queries_see_what_is_before_them(device: str, case: Sequences, dtype: torch.dtype) -> None:
    check_attend_paged(case, dtype, device)


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_queries_see_what_is_kept_in_int8(device: str, case: Sequences, dtype: torch.dtype) -> None:
    check_attend_paged_in_int8(case, dtype, device)


def test_a_sequence_gets_the_same_bits_in_any_company(device: str) -> None:
    lengths = (1, 255, 256, 257, 3000, 8192)
    check_neighbours_change_nothing(Sequences((1,) * 6, lengths, 32, 8, 128, 256, room=32768), torch.bfloat16, device)
