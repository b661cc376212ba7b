"""Products with weights on a GPU: torch's, with the gate applied in one pass over what they give."""

from torch import Tensor

from headrace_server.model.kernels.silu_mul import silu_mul
from headrace_server.model.projection import PlainProjection, SiluGated
from headrace_server.model.row_sizes import ANY


class GpuLayout:
    """Rows as the checkpoint has them, gate and up in one product."""

    name = "rows"
    rows = ANY

    def projection(self, weight: Tensor, bias: Tensor | None) -> PlainProjection:
        return PlainProjection(weight, bias)

    def gated(self, weight: Tensor, bias: Tensor | None) -> SiluGated:
        return SiluGated(PlainProjection(weight, bias), silu_mul)
