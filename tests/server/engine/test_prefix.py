"""What was computed once for a tenant is found again by the same tenant, page by page, and by nobody else."""

import struct
from collections.abc import Callable
from hashlib import sha256

import pytest
from headrace_server.engine.pages import LedgerBroken, PageLedger
from headrace_server.engine.prefix import Chain, Match, PrefixCache

SIZE = 4  # tokens in a page
TOKENS = tuple(range(100, 140))


class Pool:
    """A ledger, its prefix cache and a count of hashes."""

    def __init__(self, pages: int = 16, model: str = "m", digest: Callable[[bytes], bytes] | None = None) -> None:
        self.hashes = 0
        self._digest = digest or (lambda data: sha256(data).digest())
        self.ledger = PageLedger(total=pages, page_size=SIZE)
        self.cache = PrefixCache(self.ledger, model, self._counted)

    def _counted(self, data: bytes) -> bytes:
        self.hashes += 1
        return self._digest(data)

    def find(self, tokens: tuple[int, ...], tenant: str = "") -> int:
        return self.cache.found(self.cache.prefix(tenant, tokens)).pages

    def match(self, tokens: tuple[int, ...], tenant: str = "") -> Match:
        return self.cache.match(self.cache.prefix(tenant, tokens))

    def compute(self, tokens: tuple[int, ...], tenant: str = "") -> "Computed":
        """A sequence that found what it could, took the rest and registered all its full pages."""
        match = self.match(tokens, tenant)
        taken = self.ledger.take(self.ledger.pages_for(len(tokens)) - len(match.pages))
        sequence = Computed(self, tokens, [*match.pages, *taken], match.chain)
        sequence.register()
        return sequence

    def check(self, *sequences: "Computed") -> None:
        self.ledger.check([tuple(sequence.pages) for sequence in sequences])
        self.cache.check()


class Computed:
    def __init__(self, pool: Pool, tokens: tuple[int, ...], pages: list[int], chain: Chain) -> None:
        self.pool, self.tokens, self.pages, self.chain = pool, tokens, pages, chain

    def grow(self, tokens: tuple[int, ...]) -> None:
        self.tokens += tokens
        self.pages += self.pool.ledger.take(self.pool.ledger.pages_for(len(self.tokens)) - len(self.pages))

    def register(self) -> None:
        for index in range(self.chain.pages, len(self.tokens) // SIZE):
            page_tokens = self.tokens[index * SIZE : (index + 1) * SIZE]
            self.chain = self.pool.cache.insert(self.chain, page_tokens, self.pages[index])

    def finish(self) -> None:
        self.pool.ledger.give_back(self.pages)
        self.pages = []


class TestMatch:
    @pytest.mark.parametrize(
        ("length", "pages"),
        [
            pytest.param(1, 0, id="one token"),
            pytest.param(4, 0, id="a full page is the whole prompt: its last token has to be computed"),
            pytest.param(5, 1, id="a page and a token"),
            pytest.param(8, 1, id="two full pages: the second holds the last token"),
            pytest.param(9, 2, id="two pages and a token"),
            pytest.param(12, 2, id="all that is cached, and the last token"),
            pytest.param(40, 3, id="longer than what is cached"),
        ],
    )
    def test_the_longest_prefix_but_the_last_token(self, length: int, pages: int) -> None:
        pool = Pool()
        first = pool.compute(TOKENS[:12])
        match = pool.match(TOKENS[:length])
        assert match.pages == tuple(first.pages[:pages])
        assert match.chain.pages == pages

    def test_a_page_that_is_begun_is_not_shared(self) -> None:
        pool = Pool()
        pool.compute(TOKENS[:7])
        assert pool.find(TOKENS[:12]) == 1

    def test_the_same_tokens_after_others_are_not_the_same(self) -> None:
        pool = Pool()
        pool.compute(TOKENS[:4] + TOKENS[8:12])
        assert pool.find(TOKENS[8:13]) == 0
        assert pool.find(TOKENS[4:8] + TOKENS[8:13]) == 0

    def test_those_who_run_share_with_those_who_ended(self) -> None:
        pool = Pool()
        first = pool.compute(TOKENS[:9])
        second = pool.compute(TOKENS[:9])
        first.finish()
        third = pool.compute(TOKENS[:10])
        assert second.pages[:2] == third.pages[:2]
        assert pool.ledger.holders(second.pages[0]) == 2
        pool.check(second, third)

    def test_answers_are_found_by_the_next_turn(self) -> None:
        pool = Pool()
        first = pool.compute(TOKENS[:5])
        first.grow(TOKENS[5:14])
        first.register()
        first.finish()
        assert pool.find(TOKENS[:20]) == 3

    def test_looking_changes_nothing_and_says_what_a_match_takes(self) -> None:
        pool = Pool()
        first, second = pool.compute(TOKENS[:9]), pool.compute(TOKENS[:4] + TOKENS[20:25])
        second.finish()
        third = pool.compute(TOKENS[8:13])
        third.finish()
        order, available = pool.ledger.cached_pages(), pool.ledger.available
        prefix = pool.cache.prefix("", TOKENS[:4] + TOKENS[20:29])
        found = pool.cache.found(prefix)
        assert (found.pages, found.cached) == (2, 1), "the first is still held by the first sequence"
        assert pool.ledger.cached_pages() == order
        assert len(pool.cache.match(prefix).pages) == found.pages
        assert pool.ledger.available == available - found.cached
        assert pool.ledger.holders(first.pages[0]) == 2

    def test_counts_tokens_asked_for_and_found(self) -> None:
        pool = Pool()
        pool.compute(TOKENS[:9])
        pool.find(TOKENS[:9])
        pool.compute(TOKENS[:12])
        assert (pool.cache.asked_tokens, pool.cache.hit_tokens) == (9 + 12, 8)


class TestTenants:
    @pytest.mark.parametrize(
        ("owner", "other"), [("a", "b"), ("b", "a"), ("", "a"), ("a", ""), ("a", "a\0"), ("a", "A"), ("ä", "a")]
    )
    def test_another_tenant_finds_nothing(self, owner: str, other: str) -> None:
        pool = Pool()
        pool.compute(TOKENS[:12], owner).finish()
        assert pool.find(TOKENS[:12], other) == 0
        assert pool.match(TOKENS[:12], other).pages == ()
        assert pool.find(TOKENS[:12], owner) == 2

    def test_equal_tokens_of_two_tenants_are_cached_side_by_side(self) -> None:
        pool = Pool()
        first, second = pool.compute(TOKENS[:12], "a"), pool.compute(TOKENS[:12], "b")
        assert not set(first.pages) & set(second.pages)
        assert pool.match(TOKENS[:12], "a").pages == tuple(first.pages[:2])
        assert pool.match(TOKENS[:12], "b").pages == tuple(second.pages[:2])


class TestKeys:
    def test_every_page_is_hashed_with_all_that_its_kv_depends_on(self) -> None:
        pool = Pool(model="llama@float32")
        scope = sha256((4).to_bytes(8, "little") + b"acme" + b"llama@float32").digest()
        first = sha256(scope + scope + struct.pack("<4i", *TOKENS[:4])).digest()
        second = sha256(first + scope + struct.pack("<4i", *TOKENS[4:8])).digest()
        assert [block.key for block in pool.cache.prefix("acme", TOKENS[:9]).blocks] == [first, second]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param(("a", "m1"), ("a", "m2"), id="another model"),
            pytest.param(("a", "m"), ("b", "m"), id="another tenant"),
            pytest.param(("a", "bm"), ("ab", "m"), id="a tenant that ends as the model begins"),
        ],
    )
    def test_no_key_is_the_same_elsewhere(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        (tenant, model), (tenant2, model2) = one, other
        keys = {block.key for block in Pool(model=model).cache.prefix(tenant, TOKENS).blocks}
        keys2 = {block.key for block in Pool(model=model2).cache.prefix(tenant2, TOKENS).blocks}
        assert len(keys) == 9
        assert not keys & keys2

    def test_a_page_is_hashed_once_when_it_is_asked_for_and_once_when_it_is_registered(self) -> None:
        pool = Pool()
        prefix = pool.cache.prefix("", TOKENS)
        assert pool.hashes == 1 + 9
        for _ in range(100):  # steps that it waits
            pool.cache.found(prefix)
        chain = pool.cache.match(prefix).chain
        assert pool.hashes == 1 + 9
        pages = pool.ledger.take(10)
        for index, page in enumerate(pages):
            chain = pool.cache.insert(chain, TOKENS[index * SIZE : (index + 1) * SIZE], page)
        assert pool.hashes == 1 + 9 + 10

    def test_a_token_that_no_int32_holds_is_refused(self) -> None:
        with pytest.raises(struct.error):
            Pool().cache.prefix("", (2**31, 1, 2, 3, 4))


def test_with_a_hash_that_never_tells_pages_apart_nobody_reads_what_is_not_theirs() -> None:
    pool = Pool(digest=lambda data: b"same")
    first = pool.compute(TOKENS[:12], "a")
    for tokens, tenant in [(TOKENS[:12], "b"), (TOKENS[4:16], "a"), (TOKENS[:3] + TOKENS[20:30], "a")]:
        assert pool.find(tokens, tenant) == 0
        other = pool.compute(tokens, tenant)
        assert other.chain.ended
        assert not set(other.pages) & set(first.pages)
    assert pool.find(TOKENS[:12], "a") == 1, "the second page's key was taken"
    assert first.chain.ended


class TestTwoWhoComputedTheSame:
    def test_the_first_is_found_and_the_second_keeps_its_own(self) -> None:
        pool, first, second = self.side_by_side()
        assert not set(first.pages) & set(second.pages)
        assert pool.match(TOKENS[:12]).pages == tuple(first.pages[:2])

    def test_copies_take_no_room_when_their_sequence_ended(self) -> None:
        pool, first, second = self.side_by_side()
        second.finish()
        assert (pool.ledger.cached, pool.ledger.free) == (0, 16 - 3)
        pool.check(first)

    def test_the_copy_is_found_when_the_first_ended(self) -> None:
        pool, first, second = self.side_by_side()
        first.finish()
        assert pool.ledger.cached == 0, "one page for one content"
        assert pool.match(TOKENS[:12]).pages == tuple(second.pages[:2])

    def test_a_copy_takes_the_place_of_a_page_that_nobody_holds_any_more(self) -> None:
        pool = Pool()
        one, two = (Computed(pool, TOKENS[:9], list(pool.ledger.take(3)), pool.match(TOKENS).chain) for _ in range(2))
        one.register()
        one.finish()
        assert pool.ledger.cached == 2
        two.register()
        assert (pool.ledger.cached, pool.ledger.free, pool.ledger.evictions) == (0, 16 - 3, 0)
        assert pool.match(TOKENS).pages == tuple(two.pages[:2])

    def test_what_follows_a_copy_is_found_and_goes_before_it(self) -> None:
        pool, first, second = self.side_by_side()
        second.grow(TOKENS[12:16])
        second.register()
        first.finish()
        second.finish()
        assert pool.find(TOKENS) == 4
        for left in (3, 2, 1, 0):
            pool.ledger.take(pool.ledger.free + 1)
            assert pool.find(TOKENS) == left

    @staticmethod
    def side_by_side() -> tuple[Pool, Computed, Computed]:
        """Both started before either had computed anything."""
        pool = Pool()
        one, two = (
            Computed(pool, TOKENS[:12], list(pool.ledger.take(3)), pool.match(TOKENS[:12]).chain) for _ in range(2)
        )
        one.register()
        two.register()
        pool.check(one, two)
        return pool, one, two


class TestEviction:
    def test_takes_the_end_of_a_chain_first(self) -> None:
        pool = Pool(pages=4)
        pool.compute(TOKENS[:16]).finish()
        pool.ledger.take(1)
        assert pool.find(TOKENS) == 3
        pool.ledger.take(2)
        assert pool.find(TOKENS) == 1

    def test_takes_the_chain_that_was_not_used_for_longest(self) -> None:
        pool = Pool(pages=7)
        old, new = TOKENS[:9], TOKENS[20:29]
        pool.compute(old).finish()
        pool.compute(new).finish()
        assert pool.ledger.free == 7 - 4
        pool.compute(old).finish()
        pool.ledger.take(5)
        assert (pool.find(old), pool.find(new)) == (2, 0)

    def test_spares_what_a_running_sequence_shares(self) -> None:
        pool = Pool(pages=6)
        pool.compute(TOKENS[:8] + TOKENS[30:33]).finish()
        runs = pool.compute(TOKENS[:5])
        pool.ledger.take(4)
        assert pool.find(TOKENS) == 1
        assert pool.ledger.available == 0
        assert pool.ledger.holders(runs.pages[0]) == 1

    def test_what_is_registered_again_is_found_again(self) -> None:
        pool = Pool(pages=3)
        pool.compute(TOKENS[:9]).finish()
        taken = pool.ledger.take(3)
        assert pool.find(TOKENS) == 0
        pool.ledger.give_back(taken)
        assert (pool.ledger.free, pool.ledger.cached) == (3, 0)
        pool.compute(TOKENS[:9])
        assert pool.find(TOKENS) == 2


class TestInsertRefuses:
    def test_a_page_that_is_not_full(self) -> None:
        pool = Pool()
        (page,) = pool.ledger.take(1)
        with pytest.raises(ValueError, match="3 tokens; only a full page of 4"):
            pool.cache.insert(pool.match(TOKENS).chain, TOKENS[:3], page)

    def test_a_page_that_nobody_holds(self) -> None:
        pool = Pool()
        with pytest.raises(LedgerBroken, match="held by nobody"):
            pool.cache.insert(pool.match(TOKENS).chain, TOKENS[:4], 5)

    def test_a_page_twice(self) -> None:
        pool = Pool()
        first = pool.compute(TOKENS[:8])
        with pytest.raises(LedgerBroken, match="is registered"):
            pool.cache.insert(first.chain, TOKENS[8:12], first.pages[0])

    def test_a_chain_whose_pages_were_given_back_and_evicted(self) -> None:
        pool = Pool(pages=3)
        first = pool.compute(TOKENS[:8])
        first.finish()
        (page, *_) = pool.ledger.take(3)
        with pytest.raises(LedgerBroken, match="after one that is gone"):
            pool.cache.insert(first.chain, TOKENS[8:12], page)


class TestTheCheckSees:
    """What only a bug in the ledger or the cache could do. `pages`: two that are cached and a free one."""

    def test_a_page_that_is_forgotten(self) -> None:
        pool, pages = self.cached()
        del pool.cache._by_page[pages[1]]
        self.fails(pool, f"page {pages[1]} is cached, and nothing finds it")

    def test_a_key_that_is_forgotten(self) -> None:
        pool, pages = self.cached()
        del pool.cache._entries[pool.cache._by_page[pages[1]].key]
        self.fails(pool, f"page {pages[1]} is cached, and nothing finds it")

    def test_a_chain_that_lost_its_head(self) -> None:
        pool, pages = self.cached()
        pool.ledger.hold(pages[:2])
        pool.cache.evicted(pages[0])
        self.fails(pool, f"page {pages[1]} is registered, and the page before it is not")

    def test_a_head_that_goes_first(self) -> None:
        pool, pages = self.cached()
        pool.ledger._cached.move_to_end(pages[1])
        self.fails(pool, f"page {pages[0]} would be evicted before page {pages[1]}")

    def test_a_head_that_goes_while_what_follows_is_held(self) -> None:
        pool, pages = self.cached()
        pool.ledger.hold(pages[1:2])
        self.fails(pool, f"page {pages[0]} would be evicted before page {pages[1]}")

    def test_a_copy_that_nobody_holds(self) -> None:
        pool, pages = self.cached()
        pool.ledger.hold(pages[:2])
        pool.cache._by_page[pages[1]].copies.append(pages[2])
        self.fails(pool, f"page {pages[1]} has copies, and nobody holds one")

    def test_a_copy_beside_a_page_that_nobody_holds(self) -> None:
        pool, pages = self.cached()
        pool.cache._by_page[pages[1]].copies.extend(pool.ledger.take(1))
        self.fails(pool, f"page {pages[1]} has copies, and nobody holds one")

    @staticmethod
    def cached() -> tuple[Pool, list[int]]:
        pool = Pool()
        sequence = pool.compute(TOKENS[:9])
        pages = list(sequence.pages)
        sequence.finish()
        pool.check()
        return pool, pages

    @staticmethod
    def fails(pool: Pool, said: str) -> None:
        with pytest.raises(LedgerBroken, match=said):
            pool.cache.check()
