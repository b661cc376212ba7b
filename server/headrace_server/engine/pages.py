"""KV pages as numbers: who holds which. The tensors behind them belong to model/cache.py.

free ──take──► held by n >= 1 sequences ──the last one gives it back──► free, or
  ▲                ▲     n-1 give it back                               cached: held by nobody, content kept
  └────evicted─────┼──────────────────────────────────────────────────────┤
                   └──────────────────────────hold────────────────────────┘
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol


class LedgerBroken(Exception):
    """A page was given back twice, or got lost. Serving on would let one request read another's cache."""


class Contents(Protocol):
    """Who knows what is in the pages: the prefix cache."""

    def outlives(self, page: int) -> bool:
        """Its last holder left. True: the content is kept until the page is needed for something else."""

    def evicted(self, page: int) -> None:
        """The content of a cached page is gone."""


class PageLedger:
    """Pages 0..total-1, each free, held or cached. Every operation costs O(pages it is about)."""

    def __init__(self, total: int, page_size: int) -> None:
        self.total = total
        self.page_size = page_size  # tokens
        self.contents: Contents | None = None  # None: nothing is ever cached
        self.evictions = 0  # pages whose content was given up, ever
        self._free = list(range(total - 1, -1, -1))  # a stack: the page used last is the one still in the CPU's cache
        self._references = [0] * total
        # The least recently used first. A page enters when its last holder leaves: that is its last use. OrderedDict
        # and not dict, whose first key is found only by passing all the places of deleted ones.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Pages without content."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Pages with content that nobody holds: each can be evicted."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._cached)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def holders(self, page: int) -> int:
        return self._references[page]

    def cached_pages(self) -> tuple[int, ...]:
        """In the order in which they will be evicted."""
        return tuple(self._cached)

    def freed_by(self, pages: Iterable[int]) -> int:
        """How many become available when their holder gives these back: those that nobody else holds."""
        return sum(self._references[page] == 1 for page in pages)

    def take(self, count: int) -> tuple[int, ...]:
        """Free pages first, then as many of the least recently used cached ones as are missing, and not one more.

        Raises LedgerBroken when fewer are available: the caller has to look first.
        """
        if count > self.available:
            raise LedgerBroken(f"{count} pages were asked for, {self.available} are free or cached")
        for _ in range(count - len(self._free)):
            self._evict()
        pages = tuple(self._free.pop() for _ in range(count))
        for page in pages:
            self._references[page] = 1
        return pages

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for each. Raises LedgerBroken when one of them is free: it has no content to share."""
        for page in pages:
            if not self._references[page] and page not in self._cached:
                raise LedgerBroken(f"page {page} is free, and was to be shared")
            self._cached.pop(page, None)
            self._references[page] += 1

    def give_back(self, pages: Sequence[int]) -> None:
        """One holder less for each. `pages`: in the order of their tokens. Raises LedgerBroken when one is not held.

        The last one goes first, so that it is evicted before those that lead to it.
        """
        for page in reversed(pages):
            if not self._references[page]:
                raise LedgerBroken(f"page {page} was given back twice")
            self._references[page] -= 1
            if not self._references[page]:
                self._unhold(page)

    def drop(self, page: int) -> None:
        """A cached page becomes free: its content is kept elsewhere. Raises LedgerBroken when it is not cached."""
        if page not in self._cached:
            raise LedgerBroken(f"page {page} was to be dropped, and is not cached")
        del self._cached[page]
        self._free.append(page)

    def forget(self) -> None:
        """All cached content is gone. That is no eviction: nobody needed the pages."""
        while self._cached:
            page, _ = self._cached.popitem()
            assert self.contents is not None
            self.contents.evicted(page)
            self._free.append(page)

    def check(self, holdings: Iterable[Sequence[int]]) -> None:
        """`holdings`: the pages of each sequence. Raises LedgerBroken unless every page is in exactly one state and has
        as many references as holders."""
        held: Counter[int] = Counter()
        for holding in holdings:
            held.update(holding)
            if len(set(holding)) != len(holding):
                raise LedgerBroken(f"a sequence holds a page twice: {list(holding)}")
        free = Counter(self._free)
        for page in {*range(self.total), *held, *free, *self._cached}:
            states = free[page] + (page in self._cached) + bool(held[page])
            known = 0 <= page < self.total
            if states != 1 or not known or self._references[page] != held[page]:
                counted = f"{self._references[page]} references" if known else f"does not exist, of {self.total}"
                raise LedgerBroken(
                    f"page {page}: {counted}, {held[page]} holders, {free[page]} times free,"
                    f" {int(page in self._cached)} times cached"
                )

    def _unhold(self, page: int) -> None:
        if self.contents is not None and self.contents.outlives(page):
            self._cached[page] = None
        else:
            self._free.append(page)

    def _evict(self) -> None:
        page, _ = self._cached.popitem(last=False)
        assert self.contents is not None
        self.contents.evicted(page)
        self.evictions += 1
        self._free.append(page)
