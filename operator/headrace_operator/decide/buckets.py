"""A cumulative histogram in a fifth of the room of a tuple of pairs: 2,000 pods have 18,000 of them at any time."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import overload

Bucket = tuple[float, float]  # (upper bound in seconds, cumulative count)


class Buckets(Sequence[Bucket]):
    """As a tuple of its buckets, and equal to it."""

    __slots__ = ("bounds", "counts")

    def __init__(self, buckets: Iterable[Bucket]) -> None:
        pairs = tuple(buckets)
        self.bounds = _shared(tuple([bound for bound, _ in pairs]))
        self.counts = array("d", [count for _, count in pairs])

    def __iter__(self) -> Iterator[Bucket]:
        return zip(self.bounds, self.counts, strict=True)

    def __len__(self) -> int:
        return len(self.bounds)

    @overload
    def __getitem__(self, index: int) -> Bucket: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Bucket]: ...
    def __getitem__(self, index: int | slice) -> Bucket | Sequence[Bucket]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Buckets):
            return self.bounds == other.bounds and self.counts == other.counts
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Buckets({tuple(self)})"


def bounds_and_counts(buckets: Sequence[Bucket]) -> tuple[Sequence[float], Sequence[float]]:
    """Of any buckets; those kept here are not copied."""
    if isinstance(buckets, Buckets):
        return buckets.bounds, buckets.counts
    return tuple([bound for bound, _ in buckets]), [count for _, count in buckets]


@lru_cache(maxsize=64)
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """One object for all: the pods of one version of the server count in the same buckets."""
    return bounds
