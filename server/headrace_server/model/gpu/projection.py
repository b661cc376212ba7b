"""Products with weights on a GPU: torch's, with the gate applied in one pass over what they give."""

from dataclasses import dataclass

from torch import Tensor

from headrace_server.model.kernels.silu_mul import silu_mul
from headrace_server.model.projection import PlainProjection
from headrace_server.model.row_sizes import ANY


@dataclass(frozen=True, slots=True)
class GpuGated:
    both: PlainProjection

    def __call__(self, x: Tensor) -> Tensor:
        return silu_mul(self.both(x))

    def products(self, x: Tensor) -> Tensor:
        return self.both(x)

    def activated(self, products: Tensor) -> Tensor:
        return silu_mul(products)


class GpuLayout:
    """Rows as the checkpoint has them, gate and up in one product."""

    name = "rows"
    rows = ANY

    def projection(self, weight: Tensor, bias: Tensor | None) -> PlainProjection:
        return PlainProjection(weight, bias)

    def gated(self, weight: Tensor, bias: Tensor | None) -> GpuGated:
        return GpuGated(PlainProjection(weight, bias))
