"""RMSNorm (Zhang and Sennrich 2019), alone and after what is added to the residual, as the transformer asks for it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import rms_norm

from headrace_server.model.projection import Projection


class Norm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (T, hidden) -> the same shape and dtype."""


class Residual(Protocol):
    """The stream that every part of a layer adds to and that the next part reads normed."""

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (T, hidden) -> the same shape and dtype."""

    def added(self, residual: Tensor, projection: Projection, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """residual + projection(x), and its norm. May write into `residual`, which nobody reads again."""


@dataclass(frozen=True, slots=True)
class PlainNorm:
    epsilon: float

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), weight, self.epsilon)


@dataclass(frozen=True, slots=True)
class Unfused:
    """The projection adds, then comes the norm: on a CPU the addition is part of the product."""

    norm: Norm

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.norm(x, weight)

    def added(self, residual: Tensor, projection: Projection, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = projection.added_to(residual, x)
        return total, self.norm(total, weight)
