"""How weight matrices lie in memory, and the multiplications with them, fused with what follows where that is possible.

A layer asks for three things: a product, a product added to the residual, and a gated product (silu(gate) * up).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

from headrace_server.model.row_sizes import ANY, RowSizes


class Projection(Protocol):
    """x (T, in) -> (T, out)."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + self(x)."""

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(self(x)), by the error function."""


class Gated(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """silu(gate(x)) * up(x): `activated(products(x))`, or in one."""

    def products(self, x: Tensor) -> Tensor:
        """(T, 2 * inner): gate(x), then up(x)."""

    def activated(self, products: Tensor) -> Tensor:
        """(T, inner): silu(gate) * up."""


class Product(ABC):
    """A projection that nothing is fused with: what follows comes after it."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return residual + self(x)

    def gelu(self, x: Tensor) -> Tensor:
        return gelu(self(x))


Matrix_contra = TypeVar("Matrix_contra", contravariant=True)  # (out, in): a Tensor, or one in fewer bits


class LayoutOf(Protocol[Matrix_contra]):
    name: str
    rows: RowSizes  # others are padded to them

    def projection(self, weight: Matrix_contra, bias: Tensor | None) -> Projection:
        """weight (out, in), bias (out)."""

    def gated(self, weight: Matrix_contra, bias: Tensor | None) -> Gated:
        """weight (2 * out, in): gate, then up."""


Layout = LayoutOf[Tensor]


@dataclass(frozen=True, slots=True)
class PlainProjection(Product):
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def silu_times(both: Tensor) -> Tensor:
    """(T, 2 * inner), gate then up -> (T, inner): silu(gate) * up."""
    gate, up = both.chunk(2, dim=-1)
    return silu(gate).mul_(up)


@dataclass(frozen=True, slots=True)
class SiluGated:
    both: Projection
    silu_times: Callable[[Tensor], Tensor] = silu_times

    def __call__(self, x: Tensor) -> Tensor:
        return self.silu_times(self.both(x))

    def products(self, x: Tensor) -> Tensor:
        return self.both(x)

    def activated(self, products: Tensor) -> Tensor:
        return self.silu_times(products)


class Plain:
    """As the checkpoint has them: what every device can do."""

    name = "plain"
    rows = ANY

    def projection(self, weight: Tensor, bias: Tensor | None) -> PlainProjection:
        return PlainProjection(weight, bias)

    def gated(self, weight: Tensor, bias: Tensor | None) -> SiluGated:
        return SiluGated(PlainProjection(weight, bias))


@dataclass(frozen=True, slots=True)
class PackedProjection:
    weight: Tensor  # opaque: in the blocks that oneDNN's kernels read
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return self._with(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        return self._with(x, "swish")

    def gelu(self, x: Tensor) -> Tensor:
        return self._with(x, "gelu", "none")

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return self._and(x, residual, "add")

    def times(self, factor: Tensor, x: Tensor) -> Tensor:
        return self._and(x, factor, "mul")

    def _with(self, x: Tensor, then: str, algorithm: str = "") -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], algorithm)
        return found

    def _and(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, then)
        return found


@dataclass(frozen=True, slots=True)
class PackedGated:
    gate: PackedProjection
    up: PackedProjection

    def __call__(self, x: Tensor) -> Tensor:
        return self.up.times(self.gate.silu(x), x)

    def products(self, x: Tensor) -> Tensor:
        return torch.cat((self.gate(x), self.up(x)), dim=-1)

    def activated(self, products: Tensor) -> Tensor:
        return silu_times(products)


class Packed:
    """In oneDNN's blocks, with what follows fused into its kernels: for few rows two to three times as fast as plain.

    The operators are those that torch's own compiler emits for a CPU; they have no public name.
    """

    name = "packed"
    # 144 M parameters, float32, 2 cores: all products of a step take 19 ms for 1 row, 14 ms for 4. And oneDNN compiles
    # kernels for each number of rows that it meets, about 4 MiB in all for a model of 6 M, and keeps 1,024 of them.
    rows = RowSizes(fewest=4, few=True)

    def projection(self, weight: Tensor, bias: Tensor | None) -> PackedProjection:
        return PackedProjection(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS), bias)

    def gated(self, weight: Tensor, bias: Tensor | None) -> PackedGated:
        gate, up = weight.chunk(2)
        gate_bias, up_bias = (None, None) if bias is None else bias.chunk(2)
        return PackedGated(self.projection(gate, gate_bias), self.projection(up, up_bias))


ROWS = 16  # what oneDNN is told to expect; blocks for 16 rows were as fast as any for 1 to 1,024 of them


def is_packable(dtype: torch.dtype) -> bool:
    """Whether this processor and this build of torch have those kernels."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
