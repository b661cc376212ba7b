"""Products that always have the same number of rows, so that how many there are picks no other kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from headrace_server.errors import ModelRefused
from headrace_server.model.projection import LayoutOf, Product, Projection, SiluGated
from headrace_server.model.quantised import Int4, Int8
from headrace_server.model.row_sizes import RowSizes

TILE = 16  # rows; on one core of an AMD EPYC a row took a third less than with 8, and with 32 no less than a tenth less
Matrix = TypeVar("Matrix", bound=Tensor | Int8 | Int4)


@dataclass(frozen=True, slots=True)
class TiledProjection(Product):
    inner: Projection

    def __call__(self, x: Tensor) -> Tensor:
        rows, missing = len(x), -len(x) % TILE
        found = [self.inner(tile) for tile in torch.split(pad(x, (0, 0, 0, missing)) if missing else x, TILE)]
        return (found[0] if len(found) == 1 else torch.cat(found))[:rows]


class InTiles(Generic[Matrix]):
    """Another layout's products, a tile of rows at a time."""

    rows = RowSizes(tile=TILE)

    def __init__(self, inner: LayoutOf[Matrix], dtype: torch.dtype, silu_times: Callable[[Tensor], Tensor]) -> None:
        """`dtype`: of the activations. `silu_times`: (T, 2 * width), the gate first -> (T, width), row by row."""
        self.name = f"{inner.name}, in tiles"
        self._inner = inner
        self._dtype = dtype
        self._silu_times = silu_times
        self._checked: set[tuple[int, ...]] = set()  # sizes

    def projection(self, weight: Matrix, bias: Tensor | None) -> TiledProjection:
        """Raises ModelRefused where a row's place in its tile changes a bit of its product."""
        found = self._inner.projection(weight, bias)
        size = tuple((weight if isinstance(weight, Tensor) else weight.values).shape)
        if size not in self._checked:
            _check(found, size, self._dtype)
            self._checked.add(size)
        return TiledProjection(found)

    def gated(self, weight: Matrix, bias: Tensor | None) -> SiluGated:
        return SiluGated(self.projection(weight, bias), self._silu_times)


@torch.inference_mode()
def _check(product: Projection, size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each row in each place, with other neighbours. Equal sizes run the same code, so one of each is enough."""
    x = torch.randn(TILE, size[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = product(x)
    for moved in range(1, TILE):
        if not torch.equal(product(x.roll(moved, 0)).roll(-moved, 0), expected):
            raise ModelRefused(
                f"--batch-invariant: on this processor a row's place changes the bits of its product with a matrix of "
                f"{size[0]} x {size[1]} in {dtype}; leave the option out, or try another --dtype"
            )
