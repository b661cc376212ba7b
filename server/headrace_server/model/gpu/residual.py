"""The residual stream on a GPU: the addition is part of the norm, which reads the sum while it is in registers."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import rms_norm

from headrace_server.model.kernels.add_rms_norm import add_rms_norm
from headrace_server.model.projection import Projection


@dataclass(frozen=True, slots=True)
class GpuResidual:
    epsilon: float

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), weight, self.epsilon)

    def added(self, residual: Tensor, projection: Projection, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """In place, so `residual` must be contiguous."""
        return residual, add_rms_norm(projection(x), residual, weight, self.epsilon)
