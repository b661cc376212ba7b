"""Products with INT8 and INT4 weights on a CPU, by the kernels that torch ships.

INT8 x INT8 is oneDNN's, by the operators that torch's own compiler emits. The kernels for weights alone are torch's;
they compute in bfloat16, because in float32 they have no vector instructions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.cpu import parallel
from headrace_server.model.cpu.kernel import PARAMETERS, compiled_rounding
from headrace_server.model.projection import Gated, Product, Projection, SiluGated
from headrace_server.model.quantised import Int4, Int8, Quantised
from headrace_server.model.quantised_products import rows_in_int8
from headrace_server.model.row_sizes import ANY

# What an activation of 0 is. For signed ones oneDNN has no kernel: 64 x 256 x 1408 took 500 ms instead of 0.1 ms.
MIDDLE = 128
AT_ONCE = 16  # outputs that the kernel for INT4 computes, and inputs that the one for INT8 alone reads


def multiplies_int8() -> bool:
    """Whether this processor has instructions for it (VNNI, AMX). Older ones lose the top of sums, by saturation."""
    capabilities = torch.cpu.get_capabilities()
    known = any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return known and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class CpuQuantised:
    name = "fewer bits"
    rows = ANY

    def projection(self, weight: Quantised, bias: Tensor | None) -> Projection:
        if isinstance(weight, Int4):
            return Int4Product.of(weight, bias)
        if multiplies_int8():
            return Int8Product.of(weight, bias)
        return Int8WeightOnly.of(weight, bias)

    def gated(self, weight: Quantised, bias: Tensor | None) -> Gated:
        return SiluGated(self.projection(weight, bias))

    def describe(self) -> str:
        """For the log."""
        how = "INT8 activations" if multiplies_int8() else "activations in bfloat16: this processor has no VNNI"
        return f"torch's kernels; INT8 weights meet {how}"


@dataclass(frozen=True, slots=True)
class Int8Product(Product):
    """Weights and activations in INT8."""

    weight: Tensor  # opaque: in the blocks that oneDNN's kernels read
    scales: Tensor  # float32 (out)
    zeros: Tensor  # int64 (out): what a weight of 0 is
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Int8, bias: Tensor | None) -> "Int8Product":
        packed = torch.ops.onednn.qlinear_prepack(weight.values.contiguous(), None)
        return cls(packed, weight.scales, torch.zeros_like(weight.scales, dtype=torch.int64), bias)

    def __call__(self, x: Tensor) -> Tensor:
        sums, scales = self._product(x)
        found = sums.mul_(scales).to(x.dtype)
        return found if self.bias is None else found.add_(self.bias)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        if residual.dtype != torch.float32 or self.bias is not None:
            return residual + self(x)
        return torch.addcmul(residual, *self._product(x))

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (T, out) and (T, 1), to be multiplied."""
        values, scales = rounded(x)
        sums = torch.ops.onednn.qlinear_pointwise(
            values, 1.0, MIDDLE, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums, scales


@dataclass(frozen=True, slots=True)
class Int8WeightOnly(Product):
    values: Tensor  # int8 (out, in)
    scales: Tensor  # (out), bfloat16
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Int8, bias: Tensor | None) -> "Int8WeightOnly":
        """Raises ModelRefused for a number of inputs that the kernel would read beyond."""
        inputs = weight.values.shape[1]
        if inputs % AT_ONCE:
            raise ModelRefused(
                f"a matrix of {inputs} inputs cannot be kept in int8 on a processor without VNNI: the kernel takes "
                f"multiples of {AT_ONCE}; leave out --quantization"
            )
        return cls(weight.values, weight.scales.bfloat16(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten._weight_int8pack_mm(x.bfloat16().contiguous(), self.values, self.scales)
        found = found.to(x.dtype)
        return found if self.bias is None else found + self.bias


@dataclass(frozen=True, slots=True)
class Int4Product(Product):
    values: Tensor  # uint8 (out, in / 2), in the order that the kernel reads
    scales_and_offsets: Tensor  # bfloat16 (in / group, out, 2)
    group_size: int
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Int4, bias: Tensor | None) -> "Int4Product":
        """Raises ModelRefused for a number of outputs that the kernel has no place for."""
        outputs = len(weight.values)
        if outputs % AT_ONCE:
            raise ModelRefused(
                f"a matrix of {outputs} outputs cannot be kept in int4 on a CPU: the kernel takes multiples of "
                f"{AT_ONCE}; take int8"
            )
        both = torch.stack((weight.scales.T, weight.offsets.T), dim=2).bfloat16().contiguous()
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.values.int(), 1)
        return cls(packed, both, weight.group_size, bias)

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.bfloat16().contiguous(), self.values, self.group_size, self.scales_and_offsets
        )
        found = found.to(x.dtype)
        return found if self.bias is None else found + self.bias


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """`rows_in_int8`, around 128: uint8 (T, width) and float32 (T, 1). In one compiled pass where it can be."""
    if not parallel.is_available():
        values, scales = rows_in_int8(x)
        return (values.int() + MIDDLE).to(torch.uint8), scales
    x = x.float().contiguous()
    rows, width = x.shape
    values = torch.empty((rows, width), dtype=torch.uint8)
    scales = torch.empty((rows, 1))
    parameters = np.zeros(PARAMETERS, dtype=np.int64)
    parameters[:4] = (rows, x.data_ptr(), values.data_ptr(), scales.data_ptr())
    kernel = compiled_rounding(width)
    threads = torch.get_num_threads() if rows * width >= WORTH_SHARING else 1
    parallel.in_parallel(kernel.address, parameters.ctypes.data, threads)
    return values, scales


WORTH_SHARING = 2**17  # values; below it waking the other threads costs more than they round
