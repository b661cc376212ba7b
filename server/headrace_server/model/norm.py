"""RMSNorm (Zhang and Sennrich 2019), as the transformer asks for it."""

from typing import Protocol

from torch import Tensor
from torch.nn.functional import rms_norm


class Norm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (T, hidden) -> the same shape and dtype."""


class PlainNorm:
    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), weight, self._epsilon)
