"""Products with matrices in fewer bits, in plain torch: what every faster kernel for them is compared with.

INT8 weights meet activations in INT8, with a scale for each token as it comes (dynamic): processors multiply such pairs
four times as fast as float32, and what a token is rounded to depends on that token alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.model.projection import Product, Projection, SiluGated
from headrace_server.model.quantised import MOST, Int4, Int8, Quantised
from headrace_server.model.row_sizes import ANY


@dataclass(frozen=True, slots=True)
class PlainInt8(Product):
    weight: Int8
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        values, scales = rows_in_int8(x)
        # Sums of products of two INT8 are exact in float64.
        sums = (values.double() @ self.weight.values.double().T).float()
        found = sums * self.weight.scales * scales
        return (found if self.bias is None else found + self.bias).to(x.dtype)


@dataclass(frozen=True, slots=True)
class PlainInt4(Product):
    """Activations, scales and results in bfloat16, as torch's kernel has them; sums in float32."""

    weight: Tensor  # float32 (out, in)
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Int4, bias: Tensor | None) -> "PlainInt4":
        scales, offsets = weight.scales.bfloat16().float(), weight.offsets.bfloat16().float()
        return cls(Int4(weight.values, scales, offsets).dense(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        found = (x.bfloat16().float() @ self.weight.T).bfloat16().to(x.dtype)
        return found if self.bias is None else found + self.bias


class PlainQuantised:
    """On every device, as slow as it is."""

    name = "plain, fewer bits"
    rows = ANY

    def projection(self, weight: Quantised, bias: Tensor | None) -> Projection:
        return PlainInt4.of(weight, bias) if isinstance(weight, Int4) else PlainInt8(weight, bias)

    def gated(self, weight: Quantised, bias: Tensor | None) -> SiluGated:
        return SiluGated(self.projection(weight, bias))


def rows_in_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (T, width) -> int8 (T, width) and float32 (T, 1): x is about their product."""
    most = x.float().abs().amax(dim=-1, keepdim=True)
    values = (x.float() * (MOST / most).nan_to_num(0.0, posinf=0.0)).round()
    return values.to(torch.int8), most / MOST
