"""KV pages as numbers: who holds which. The tensors behind them belong to model/cache.py."""

from collections.abc import Iterable


class LedgerBroken(Exception):
    """A page was given back twice, or got lost. Serving on would let one request read another's cache."""


class PageLedger:
    """Pages 0..total-1, each either free or held by exactly one owner."""

    def __init__(self, total: int, page_size: int) -> None:
        self.total = total
        self.page_size = page_size  # tokens
        self._free = list(range(total - 1, -1, -1))  # a stack: the page used last is the one still in a cache
        self._held = bytearray(total)

    @property
    def free(self) -> int:
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def take(self, count: int) -> tuple[int, ...]:
        """Raises LedgerBroken when fewer are free: the caller has to look first."""
        if count > len(self._free):
            raise LedgerBroken(f"{count} pages were asked for, {len(self._free)} are free")
        pages = tuple(self._free.pop() for _ in range(count))
        for page in pages:
            self._held[page] = 1
        return pages

    def give_back(self, pages: Iterable[int]) -> None:
        """Raises LedgerBroken when one of them is not held."""
        for page in pages:
            if not self._held[page]:
                raise LedgerBroken(f"page {page} was given back twice")
            self._held[page] = 0
            self._free.append(page)

    def check(self, holdings: Iterable[tuple[int, ...]]) -> None:
        """Raises LedgerBroken unless these holdings and the free pages are together every page once."""
        held = [page for holding in holdings for page in holding]
        if sorted(held + self._free) != list(range(self.total)) or sum(self._held) != len(held):
            raise LedgerBroken(f"{len(held)} pages held and {len(self._free)} free do not make up {self.total}")
