"""Matrices in fewer bits: how near they are to what they were made of, and the kernels beside plain torch."""

import pytest
import torch
from headrace_server.config import WeightFormat
from headrace_server.errors import ModelRefused
from headrace_server.model.cpu.quantised import CpuQuantised, Int8WeightOnly, multiplies_int8, rounded
from headrace_server.model.quantisation import quantisation
from headrace_server.model.quantised import (
    Int4,
    Int8,
    Quantised,
    from_stored,
    joined,
    quantised,
    shapes_stored,
    stored_tensors,
)
from headrace_server.model.quantised_products import PlainQuantised, rows_in_int8
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

INT8 = quantisation(WeightFormat.INT8, 64, ())
INT4 = quantisation(WeightFormat.INT4, 32, ())
KINDS = pytest.mark.parametrize("how", [INT8, INT4], ids=["int8", "int4"])
NUMBERS = st.floats(-1e4, 1e4, width=32)
ROWS = st.integers(1, 3).flatmap(lambda rows: st.lists(st.lists(NUMBERS, min_size=64, max_size=64), min_size=rows))


@given(ROWS)
def test_int8_is_within_half_a_step_of_each_weight(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    found = quantised("w", weight, INT8)
    assert isinstance(found, Int8)
    assert found.values.abs().max() <= 127
    off = (found.dense() - weight).abs()
    assert (off <= 0.5001 * found.scales.unsqueeze(1) + 1e-30).all()


@given(ROWS)
def test_int4_is_within_half_a_step_of_each_weight(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    found = quantised("w", weight, INT4)
    assert isinstance(found, Int4)
    assert (found.values.min(), found.values.max()) >= (0, 0)
    assert found.values.max() <= 15
    off = (found.dense() - weight).abs()
    rounding = weight.abs().amax() * 2e-6  # of the offsets themselves
    assert (off <= 0.5001 * found.scales.repeat_interleave(32, dim=1) + rounding).all()


@KINDS
def test_what_is_stored_is_what_is_read(how: object) -> None:
    matrix = quantised("w", torch.randn(48, 64), how)  # type: ignore[arg-type]
    tensors = stored_tensors("w", matrix)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes_stored("w", (48, 64), how)  # type: ignore[arg-type]
    again = from_stored("w", how, tensors.__getitem__)  # type: ignore[arg-type]
    assert torch.equal(again.dense(), matrix.dense())


@KINDS
def test_matrices_are_joined_by_outputs(how: object) -> None:
    one, two = torch.randn(16, 64), torch.randn(32, 64)
    apart: list[Quantised] = [quantised("w", weight, how) for weight in (one, two)]  # type: ignore[arg-type]
    whole = quantised("w", torch.cat((one, two)), how)  # type: ignore[arg-type]
    assert torch.equal(joined(apart).dense(), whole.dense())


def test_groups_that_do_not_divide_a_row_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        ModelRefused, match="down_proj has 96 inputs, which groups of 64 do not divide; groups of 32 do"
    ):
        quantised("down_proj", torch.randn(16, 96), quantisation(WeightFormat.INT4, 64, ()))
    with pytest.raises(ModelRefused, match="no supported group does; take int8"):
        quantised("down_proj", torch.randn(16, 40), INT4)


def whole_sixteenths(rows: int) -> Tensor:
    """Activations that INT8 holds exactly: between two of its values each kernel may take either."""
    x = torch.randint(-127, 128, (rows, 64)) / 16
    x[:, 0] = 127 / 16
    return x


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 16, 130])
def test_the_kernels_give_the_products_of_plain_torch(how: object, dtype: torch.dtype, biased: bool, rows: int) -> None:
    matrix = quantised("w", torch.randn(96, 64), how)  # type: ignore[arg-type]
    bias = torch.randn(96).to(dtype) if biased else None
    x = (whole_sixteenths(rows) if how is INT8 else torch.randn(rows, 64)).to(dtype)
    residual = torch.randn(rows, 96).to(dtype)
    layouts = (PlainQuantised(), CpuQuantised())
    plain, kernel = (layout.projection(matrix, bias) for layout in layouts)
    exact = dtype == torch.float32 and how is INT8  # INT4 is multiplied in bfloat16
    near = {"atol": 1e-3, "rtol": 1e-3} if exact else {"atol": 0.25, "rtol": 0.03}
    torch.testing.assert_close(kernel(x), plain(x), **near)
    torch.testing.assert_close(kernel.added_to(residual, x), plain.added_to(residual, x), **near)
    torch.testing.assert_close(kernel.gelu(x), plain.gelu(x), **near)
    gated = [layout.gated(matrix, bias)(x) for layout in layouts]
    torch.testing.assert_close(gated[1], gated[0], atol=near["atol"] * 8, rtol=near["rtol"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_int8_weights_alone_for_processors_that_do_not_multiply_int8(dtype: torch.dtype) -> None:
    matrix = quantised("w", torch.randn(96, 64), INT8)
    assert isinstance(matrix, Int8)
    x = torch.randn(5, 64)
    found = Int8WeightOnly.of(matrix, None)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), x @ matrix.dense().T, atol=0.3, rtol=0.02)


def test_int8_weights_alone_want_whole_blocks_of_inputs() -> None:
    matrix = quantised("w", torch.randn(96, 40), INT8)
    assert isinstance(matrix, Int8)
    with pytest.raises(ModelRefused, match=r"a matrix of 40 inputs cannot be kept in int8.*leave out --quantization"):
        Int8WeightOnly.of(matrix, None)


def test_a_matrix_that_the_kernel_has_no_place_for_is_refused() -> None:
    with pytest.raises(ModelRefused, match=r"a matrix of 40 outputs cannot be kept in int4 on a CPU.*take int8"):
        CpuQuantised().projection(quantised("w", torch.randn(40, 64), INT4), None)


@pytest.mark.parametrize("x", [torch.randn(70, 96) * 3, torch.zeros(2, 96), torch.full((1, 96), 1e-38)])
def test_activations_are_rounded_as_plain_torch_rounds_them(x: Tensor) -> None:
    values, scales = rows_in_int8(x)
    found, found_scales = rounded(x)
    assert torch.equal(found.int() - 128, values.int())
    torch.testing.assert_close(found_scales, scales)


def test_what_a_token_is_rounded_to_does_not_depend_on_its_neighbours() -> None:
    x = torch.randn(9, 64)
    x[4] *= 1000
    product = CpuQuantised().projection(quantised("w", torch.randn(96, 64), INT8), None)
    alone = torch.cat([product(row.unsqueeze(0)) for row in x])
    assert torch.equal(product(x), alone)


def test_int8_is_multiplied_by_a_kernel_and_not_by_onednns_reference(capfd: pytest.CaptureFixture[str]) -> None:
    if not multiplies_int8():
        return
    product = CpuQuantised().projection(quantised("w", torch.randn(1408, 256), INT8), None)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        product(torch.randn(64, 256))
    ran = [
        line.split(",")
        for line in capfd.readouterr().out.splitlines()
        if line.startswith("onednn_verbose") and ",exec," in line
    ]
    assert ran
    assert not [words for words in ran if any(word.startswith("ref") for word in words)]  # a thousandth as fast
