"""Values by key, within a number of bytes and for a limited time; what nobody asked for longest goes first. Pure.

O(1) a look-up. Time is an argument, in seconds on any clock that never goes back.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    value: T
    size: int  # bytes
    until: float


class Values(Generic[T]):
    def __init__(self, most: int, ttl: float) -> None:
        """`most`: bytes of all values together; `ttl`: seconds from when a value is put in."""
        self._most = most
        self._ttl = ttl
        self._kept: OrderedDict[bytes, _Kept[T]] = OrderedDict()  # asked for last, at the end
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> T | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.value

    def put(self, key: bytes, value: T, size: int, now: float) -> int:
        """Takes the place of an older value; how many others had to go. What alone is too large is not kept."""
        self._drop(key)
        if size > self._most:
            return 0
        gone = 0
        while self.size + size > self._most:
            self._drop(next(iter(self._kept)))
            gone += 1
        self._kept[key] = _Kept(value, size, now + self._ttl)
        self.size += size
        return gone

    def _drop(self, key: bytes) -> None:
        if kept := self._kept.pop(key, None):
            self.size -= kept.size
