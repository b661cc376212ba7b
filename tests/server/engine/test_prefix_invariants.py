"""Whatever runs beside whatever: nobody reads KV that is not theirs, and what is kept is exactly what was used last.

The model beside it knows contents, not pages: a content is a tenant and all tokens up to the end of a page.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from example_counts import examples
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.prefix import Chain, PrefixCache
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PAGES = 14
SIZE = 2  # tokens in a page

Content = tuple[str, tuple[int, ...]]
tokens = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple)  # two token ids: most prompts begin alike
tenants = st.sampled_from(["", "a"])


@dataclass(eq=False)
class Running:
    tenant: str
    tokens: tuple[int, ...]
    chain: Chain
    pages: list[int] = field(default_factory=list)
    computed: int = 0  # tokens whose KV is in its pages

    def registered(self) -> list[Content]:
        return [(self.tenant, self.tokens[: (index + 1) * SIZE]) for index in range(self.chain.pages)]


class AnyPrompts(RuleBasedStateMachine):
    digest: Callable[[bytes], bytes]

    @initialize()
    def begin(self) -> None:
        self.ledger = PageLedger(PAGES, SIZE)
        self.cache = PrefixCache(self.ledger, "m", type(self).digest)
        self.running: list[Running] = []
        self.memory: dict[int, dict[int, Content]] = {page: {} for page in range(PAGES)}  # the device's, by offset
        self.last_used: dict[Content, tuple[int, int]] = {}  # every content that can be found: when, and how deep
        self.now = 0

    @rule(tenant=tenants, prompt=tokens)
    def start(self, tenant: str, prompt: tuple[int, ...]) -> None:
        prefix = self.cache.prefix(tenant, prompt)
        found = self.cache.found(prefix)
        assert found.pages == self.longest(tenant, prompt)
        missing = self.ledger.pages_for(len(prompt)) - found.pages
        if missing > self.ledger.available - found.cached:
            return
        before = self.ledger.available
        match = self.cache.match(prefix)
        assert self.ledger.available == before - found.cached
        assert len(match.pages) == match.chain.pages == found.pages
        sequence = Running(tenant, prompt, match.chain, list(match.pages), found.pages * SIZE)
        self.running.append(sequence)
        self.compute(sequence)

    @precondition(lambda self: self.running)
    @rule(pick=st.data(), more=tokens)
    def grow(self, pick: st.DataObject, more: tuple[int, ...]) -> None:
        sequence = self.pick(pick)
        missing = self.ledger.pages_for(len(sequence.tokens) + len(more)) - len(sequence.pages)
        if missing <= self.ledger.available:
            sequence.tokens += more
            self.compute(sequence)

    @precondition(lambda self: self.running)
    @rule(pick=st.data(), most=st.integers(1, PAGES))
    def register(self, pick: st.DataObject, most: int) -> None:
        """Late or never, as steps are committed or the sequence ends before."""
        sequence = self.pick(pick)
        for index in range(sequence.chain.pages, min(sequence.chain.pages + most, sequence.computed // SIZE)):
            page_tokens = sequence.tokens[index * SIZE : (index + 1) * SIZE]
            sequence.chain = self.cache.insert(sequence.chain, page_tokens, sequence.pages[index])
        for depth, content in enumerate(sequence.registered()):
            self.last_used.setdefault(content, (self.now, -depth))

    @precondition(lambda self: self.running)
    @rule(pick=st.data())
    def finish_or_preempt(self, pick: st.DataObject) -> None:
        self.leave(self.pick(pick))

    @invariant()
    def everybody_reads_what_is_theirs(self) -> None:
        for sequence in getattr(self, "running", ()):
            for position in range(sequence.computed):
                there = self.memory[sequence.pages[position // SIZE]][position % SIZE]
                assert there == (sequence.tenant, sequence.tokens[: position + 1])

    @invariant()
    def what_is_cached_is_what_was_used_last(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check([tuple(sequence.pages) for sequence in self.running])
        self.cache.check()
        assert [self.memory[page][SIZE - 1] for page in self.ledger.cached_pages()] == self.turn_to_go()
        held = {page for sequence in self.running for page in sequence.pages}
        assert self.ledger.free == PAGES - len(held) - len(self.turn_to_go())
        for sequence in self.running:
            others = {page for other in self.running if other is not sequence for page in other.pages}
            assert self.ledger.freed_by(sequence.pages) == len(set(sequence.pages) - others)

    def teardown(self) -> None:
        """At idle every page is free or cached, and all can be taken."""
        if not hasattr(self, "ledger"):
            return
        while self.running:
            self.leave(self.running[0])
            self.what_is_cached_is_what_was_used_last()
        assert self.ledger.available == PAGES
        self.take(PAGES)
        self.cache.check()

    def compute(self, sequence: Running) -> None:
        """Takes the pages that are missing and writes the KV of its new tokens."""
        sequence.pages += self.take(self.ledger.pages_for(len(sequence.tokens)) - len(sequence.pages))
        for position in range(sequence.computed, len(sequence.tokens)):
            page = sequence.pages[position // SIZE]
            assert self.ledger.holders(page) == 1, "a page that is written has one owner"
            assert position >= sequence.chain.pages * SIZE, "and nobody can find it"
            self.memory[page][position % SIZE] = (sequence.tenant, sequence.tokens[: position + 1])
        sequence.computed = len(sequence.tokens)

    def take(self, count: int) -> tuple[int, ...]:
        evicted = self.turn_to_go()[: max(0, count - self.ledger.free)]
        before = self.ledger.evictions
        pages = self.ledger.take(count)
        assert self.ledger.evictions == before + len(evicted), "exactly as many as are missing"
        assert all(self.ledger.holders(page) == 1 for page in pages)
        for content in evicted:
            del self.last_used[content]
        for page in pages:
            self.memory[page] = {}  # reading what was there fails the test
        return pages

    def leave(self, sequence: Running) -> None:
        self.now += 1
        for depth, content in enumerate(sequence.registered()):
            self.last_used[content] = (self.now, -depth)
        freed, before = self.ledger.freed_by(sequence.pages), self.ledger.available
        self.running.remove(sequence)
        self.ledger.give_back(sequence.pages)
        assert self.ledger.available == before + freed

    def turn_to_go(self) -> list[Content]:
        """What can be found and nobody holds, the one used longest ago first; of one sequence, its last page first."""
        held = {content for sequence in self.running for content in sequence.registered()}
        return sorted(self.last_used.keys() - held, key=lambda content: self.last_used[content])

    def longest(self, tenant: str, prompt: tuple[int, ...]) -> int:
        pages = 0
        while (pages + 1) * SIZE < len(prompt) and (tenant, prompt[: (pages + 1) * SIZE]) in self.last_used:
            pages += 1
        return pages

    def pick(self, pick: st.DataObject) -> Running:
        return self.running[pick.draw(st.integers(0, len(self.running) - 1))]


class WithSha256(AnyPrompts):
    digest = staticmethod(lambda data: sha256(data).digest())


class WithCollisions(AnyPrompts):
    """Four different keys for everything: only what is compared beside the key keeps contents apart."""

    digest = staticmethod(lambda data: bytes([sha256(data).digest()[0] & 3]))


for machine in (WithSha256, WithCollisions):
    machine.TestCase.settings = settings(examples(200), stateful_step_count=40)
TestWithSha256 = WithSha256.TestCase
TestWithCollisions = WithCollisions.TestCase
