"""What adapters add to the products of a layer, for the rows of a step that asked for them.

Rows of one adapter are gathered, multiplied with its two small matrices and added back: one pass for each adapter of a
step, so what a step costs grows with how many adapters it mixes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from headrace_server.model.lora.rows import AdaptedRows
from headrace_server.model.projection import Gated, Product, Projection
from headrace_server.model.weights import Layer


@dataclass(frozen=True, slots=True)
class Delta:
    """One adapter's part of one product."""

    down: Projection  # in -> ranks of all that is multiplied in one
    up: Projection  # these -> out, scaled

    def __call__(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@dataclass(frozen=True, slots=True)
class LayerDeltas:
    """By the adapter's name; one that leaves a product as it is, is not there."""

    qkv: Mapping[str, Delta]
    out: Mapping[str, Delta]
    gated: Mapping[str, Delta]
    down: Mapping[str, Delta]


@dataclass(frozen=True, slots=True)
class Deltas:
    """What a step's adapters add to one product."""

    parts: tuple[tuple[Delta, Tensor], ...]  # and the rows to which

    @classmethod
    def of(cls, by_adapter: Mapping[str, Delta], step: Sequence[AdaptedRows]) -> "Deltas":
        return cls(tuple((by_adapter[each.adapter], each.rows) for each in step if each.adapter in by_adapter))

    def added(self, product: Tensor, x: Tensor) -> Tensor:
        """In place."""
        for delta, rows in self.parts:
            product.index_add_(0, rows, delta(x.index_select(0, rows)))
        return product


@dataclass(frozen=True, slots=True)
class AdaptedProjection(Product):
    inner: Projection
    deltas: Deltas

    def __call__(self, x: Tensor) -> Tensor:
        return self.deltas.added(self.inner(x), x)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return self.deltas.added(self.inner.added_to(residual, x), x)


@dataclass(frozen=True, slots=True)
class AdaptedGated:
    inner: Gated
    deltas: Deltas

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner.activated(self.deltas.added(self.inner.products(x), x))

    def products(self, x: Tensor) -> Tensor:
        return self.deltas.added(self.inner.products(x), x)

    def activated(self, products: Tensor) -> Tensor:
        return self.inner.activated(products)


@dataclass(frozen=True, slots=True)
class Adapters:
    layers: tuple[LayerDeltas, ...] = ()

    def beside(self, layers: Sequence[Layer], step: Sequence[AdaptedRows]) -> tuple[Layer, ...]:
        """The layers, as this step's rows see them."""
        return tuple(_adapted(layer, deltas, step) for layer, deltas in zip(layers, self.layers, strict=True))


NO_ADAPTERS = Adapters()


def _adapted(layer: Layer, deltas: LayerDeltas, step: Sequence[AdaptedRows]) -> Layer:
    return replace(
        layer,
        qkv=AdaptedProjection(layer.qkv, Deltas.of(deltas.qkv, step)),
        out=AdaptedProjection(layer.out, Deltas.of(deltas.out, step)),
        gated=AdaptedGated(layer.gated, Deltas.of(deltas.gated, step)),
        down=AdaptedProjection(layer.down, Deltas.of(deltas.down, step)),
    )
