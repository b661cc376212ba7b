"""Which rows of a step are an adapter's."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    adapter: str
    rows: Tensor  # int64, each once
