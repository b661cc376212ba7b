"""The prefix cache: which full pages hold the KV of which tokens, so that what prompts begin with is computed once.

A page's key is a chained hash of all that its KV depends on: H(key of the page before, tenant and model, its tokens).
An entry keeps what was hashed, and a hit compares it: equal keys alone never let one caller read another's pages.

**Who is evicted first.** The ledger evicts in the order in which pages lost their last holder. That order alone puts a
page before the one that leads to it, so no cached page is ever out of reach, without a tree and without a search:
  1. whoever holds a page of a chain holds, for every page before it, the registered page or a copy of it (`insert`);
  2. an entry whose page nobody holds has no copies: of several equal pages the one whose holder stays longest is the
     entry's, and the others become free (`_add_copy`, `outlives`);
  3. a sequence gives its pages back all at once, and the last page goes first (`PageLedger.give_back`).
So an entry's page loses its last holder after all that follow it, and a use of a chain renews all of it. O(1) a page.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from headrace_server.engine.pages import LedgerBroken, PageLedger


def _sha256(data: bytes) -> bytes:
    return sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens of one full page."""

    key: bytes
    token_ids: bytes  # int32


@dataclass(frozen=True, slots=True)
class Prefix:
    """What of a prompt may be found: its full pages, hashed, without the last token, which is always computed."""

    tenant: str
    scope: bytes  # hash of tenant and model
    tokens: int  # of the whole prompt
    blocks: tuple[Block, ...]


@dataclass(eq=False, slots=True)
class Entry:
    """A registered page. Its identity is that of its content: the page under it may change."""

    key: bytes
    tenant: str
    token_ids: bytes  # int32
    parent: "Entry | None"  # None: the first page
    page: int
    copies: list[int] = field(default_factory=list)  # pages computed alike and held; at most one a running sequence

    def is_for(self, tenant: str, parent: "Entry | None", token_ids: bytes) -> bool:
        return self.tenant == tenant and self.parent is parent and self.token_ids == token_ids


@dataclass(frozen=True, slots=True)
class Chain:
    """How far a sequence's pages are registered. Good for as long as the sequence holds them."""

    tenant: str
    scope: bytes
    pages: int = 0
    last: Entry | None = None  # of page number pages - 1
    ended: bool = False  # a hash collision: what follows stays this sequence's own


@dataclass(frozen=True, slots=True)
class Found:
    """What a match would bring."""

    pages: int
    cached: int  # of them, held by nobody: taking them makes so many fewer pages available


@dataclass(frozen=True, slots=True)
class Match:
    """What a sequence starts with."""

    pages: tuple[int, ...]  # held for it from now on, in the order of the tokens, never to be written
    chain: Chain


class PrefixCache:
    """Registers itself with the ledger, which asks it what to keep.

    `model`: everything beside tokens and tenant that KV depends on (checkpoint, dtype, adapter).
    """

    def __init__(self, ledger: PageLedger, model: str, digest: Callable[[bytes], bytes] = _sha256) -> None:
        self.asked_tokens = 0  # of the prompts that were matched, ever
        self.hit_tokens = 0  # of them, found
        self._ledger = ledger
        self._model = model.encode()
        self._digest = digest
        self._pack = struct.Struct(f"<{ledger.page_size}i").pack  # a third of array("i")'s time for 256 tokens
        self._entries: dict[bytes, Entry] = {}  # by key
        self._by_page: dict[int, Entry] = {}  # registered pages and their copies
        ledger.contents = self

    def prefix(self, tenant: str, token_ids: Sequence[int]) -> Prefix:
        """Hashes once what `found` and `match` need. Reads nothing that changes: any thread may call it.

        `tenant`: "" is the default tenant, of callers who are not authenticated. Raises struct.error for an id that
        int32 cannot hold.
        """
        size = self._ledger.page_size
        name = tenant.encode()
        scope = self._digest(len(name).to_bytes(8, "little") + name + self._model)
        blocks, parent = [], scope
        for start in range(0, (len(token_ids) - 1) // size * size, size):
            block = self._block(parent, scope, token_ids[start : start + size])
            blocks.append(block)
            parent = block.key
        return Prefix(tenant, scope, len(token_ids), tuple(blocks))

    def found(self, prefix: Prefix) -> Found:
        """Changes nothing. A sequence of n pages fits when n - found.pages <= ledger.available - found.cached."""
        entries = self._longest(prefix)
        return Found(len(entries), sum(not self._ledger.holders(entry.page) for entry in entries))

    def match(self, prefix: Prefix) -> Match:
        """The longest cached prefix, held once more from now on."""
        entries = self._longest(prefix)
        pages = tuple(entry.page for entry in entries)
        self._ledger.hold(pages)
        self.asked_tokens += prefix.tokens
        self.hit_tokens += len(pages) * self._ledger.page_size
        return Match(pages, Chain(prefix.tenant, prefix.scope, len(pages), entries[-1] if entries else None))

    def insert(self, chain: Chain, token_ids: Sequence[int], page: int) -> Chain:
        """Registers the page after `chain`, whose KV is computed and which the sequence holds and never writes again.

        If its content is registered already, the page stays the sequence's own as a copy. `token_ids`: exactly the
        page's. Raises ValueError when they do not fill it, LedgerBroken when the page or the chain is not held.
        """
        if len(token_ids) != self._ledger.page_size:
            raise ValueError(f"{len(token_ids)} tokens; only a full page of {self._ledger.page_size} is cached")
        self._check_held(chain, page)
        if chain.ended:
            return chain
        block = self._block(chain.last.key if chain.last else chain.scope, chain.scope, token_ids)
        entry = self._entries.get(block.key)
        if entry is None:
            entry = self._entries[block.key] = Entry(block.key, chain.tenant, block.token_ids, chain.last, page)
        elif entry.is_for(chain.tenant, chain.last, block.token_ids):
            self._add_copy(entry, page)
        else:
            return Chain(chain.tenant, chain.scope, chain.pages, chain.last, ended=True)
        self._by_page[page] = entry
        return Chain(chain.tenant, chain.scope, chain.pages + 1, entry)

    def outlives(self, page: int) -> bool:
        entry = self._by_page.get(page)
        if entry is None:
            return False
        if page == entry.page and not entry.copies:
            return True
        del self._by_page[page]
        if page == entry.page:
            entry.page = entry.copies.pop()
        else:
            entry.copies.remove(page)
        return False

    def evicted(self, page: int) -> None:
        del self._entries[self._by_page.pop(page).key]

    def check(self) -> None:
        """Raises LedgerBroken unless every cached page can be found, and is evicted before the one that leads to it."""
        cached = self._ledger.cached_pages()
        turn = {page: position for position, page in enumerate(cached)}
        held = len(cached)  # the turn of those that nobody can evict
        for page in cached:
            entry = self._by_page.get(page)
            if entry is None or entry.page != page or self._entries.get(entry.key) is not entry:
                raise LedgerBroken(f"page {page} is cached, and nothing finds it")
        for entry in self._entries.values():
            parent = entry.parent
            if parent is not None and self._entries.get(parent.key) is not parent:
                raise LedgerBroken(f"page {entry.page} is registered, and the page before it is not")
            if parent is not None and turn.get(entry.page, held) > turn.get(parent.page, held):
                raise LedgerBroken(f"page {parent.page} would be evicted before page {entry.page}, which follows it")
            if entry.copies and not all(map(self._ledger.holders, (entry.page, *entry.copies))):
                raise LedgerBroken(f"page {entry.page} has copies, and nobody holds one of them")

    def _block(self, parent: bytes, scope: bytes, token_ids: Sequence[int]) -> Block:
        packed = self._pack(*token_ids)
        return Block(self._digest(parent + scope + packed), packed)

    def _add_copy(self, entry: Entry, page: int) -> None:
        if self._ledger.holders(entry.page):
            entry.copies.append(page)
            return
        del self._by_page[entry.page]
        self._ledger.drop(entry.page)
        entry.page = page

    def _longest(self, prefix: Prefix) -> list[Entry]:
        entries: list[Entry] = []
        parent = None
        for block in prefix.blocks:
            entry = self._entries.get(block.key)
            if entry is None or not entry.is_for(prefix.tenant, parent, block.token_ids):
                break
            entries.append(entry)
            parent = entry
        return entries

    def _check_held(self, chain: Chain, page: int) -> None:
        if page in self._by_page or not self._ledger.holders(page):
            raise LedgerBroken(f"page {page} was to be registered, and is registered or held by nobody")
        if chain.last is not None and self._entries.get(chain.last.key) is not chain.last:
            raise LedgerBroken(f"page {page} was to be registered after one that is gone")
