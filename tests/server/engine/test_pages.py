"""A page is free, or held by so many sequences, or cached by nobody; never two of these, never none."""

from collections.abc import Callable, Sequence

import pytest
from headrace_server.engine.pages import LedgerBroken, PageLedger
from hypothesis import given
from hypothesis import strategies as st

Holdings = list[tuple[int, ...]]


class Kept:
    """Contents that outlive their holders when they are on the list."""

    def __init__(self, *pages: int) -> None:
        self.pages = set(pages)
        self.evictions: list[int] = []

    def outlives(self, page: int) -> bool:
        return page in self.pages

    def evicted(self, page: int) -> None:
        self.evictions.append(page)


def a_ledger(total: int = 4, contents: Kept | None = None) -> PageLedger:
    ledger = PageLedger(total=total, page_size=16)
    ledger.contents = contents
    return ledger


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_page_that_is_begun_is_needed_whole(tokens: int, pages: int) -> None:
    assert a_ledger().pages_for(tokens) == pages


def test_more_pages_than_are_available_cannot_be_taken_and_nothing_is_evicted_for_it() -> None:
    contents = Kept(0, 1, 2, 3)
    ledger = a_ledger(contents=contents)
    held = ledger.take(3)
    ledger.give_back(held[:1])
    with pytest.raises(LedgerBroken, match="3 pages were asked for, 2 are free or cached"):
        ledger.take(3)
    assert contents.evictions == []
    ledger.check([held[1:]])


def test_a_page_cannot_be_given_back_twice() -> None:
    ledger = a_ledger()
    pages = ledger.take(2)
    ledger.give_back(pages)
    with pytest.raises(LedgerBroken, match="given back twice"):
        ledger.give_back(pages)


def test_a_page_without_content_cannot_be_shared() -> None:
    ledger = a_ledger()
    with pytest.raises(LedgerBroken, match="page 3 is free"):
        ledger.hold([3])


def test_without_a_prefix_cache_every_page_given_back_is_free() -> None:
    ledger = a_ledger()
    ledger.give_back(ledger.take(4))
    assert (ledger.free, ledger.cached, ledger.available) == (4, 0, 4)


class TestSharing:
    def test_a_shared_page_is_available_when_its_last_holder_leaves(self) -> None:
        ledger = a_ledger()
        (page,) = ledger.take(1)
        ledger.hold([page])
        assert ledger.holders(page) == 2
        ledger.give_back([page])
        assert ledger.available == 3
        ledger.give_back([page])
        assert ledger.available == 4

    def test_what_a_sequence_would_free_is_what_nobody_else_holds(self) -> None:
        ledger = a_ledger()
        pages = ledger.take(3)
        ledger.hold(pages[:1])
        assert ledger.freed_by(pages) == 2
        before = ledger.available
        ledger.give_back(pages)
        assert ledger.available == before + 2

    def test_a_cached_page_is_held_again_with_its_content(self) -> None:
        contents = Kept(0)
        ledger = a_ledger(contents=contents)
        pages = ledger.take(1)
        ledger.give_back(pages)
        ledger.hold(pages)
        assert (ledger.cached, ledger.holders(0)) == (0, 1)
        assert ledger.take(3) == (1, 2, 3)
        assert contents.evictions == []

    def test_a_cached_page_that_is_dropped_is_free_and_not_evicted(self) -> None:
        contents = Kept(0)
        ledger = a_ledger(contents=contents)
        ledger.give_back(ledger.take(1))
        ledger.drop(0)
        assert (ledger.cached, ledger.free, ledger.evictions, contents.evictions) == (0, 4, 0, [])
        ledger.check([])

    @pytest.mark.parametrize("page", [pytest.param(0, id="held"), pytest.param(3, id="free")])
    def test_only_a_cached_page_is_dropped(self, page: int) -> None:
        ledger = a_ledger(contents=Kept(0, 3))
        ledger.take(1)
        with pytest.raises(LedgerBroken, match=f"page {page} was to be dropped"):
            ledger.drop(page)


class TestEviction:
    @pytest.mark.parametrize(
        ("wanted", "evicted"),
        [
            pytest.param(1, [], id="free pages first"),
            pytest.param(2, [], id="all the free pages"),
            pytest.param(3, [2], id="one is missing"),
            pytest.param(5, [2, 1, 0], id="all are needed"),
        ],
    )
    def test_takes_as_many_as_are_missing(self, wanted: int, evicted: list[int]) -> None:
        contents = Kept(0, 1, 2)
        ledger = a_ledger(total=5, contents=contents)
        ledger.give_back(ledger.take(3))  # 2 goes first, because it is the last of its sequence
        assert len(set(ledger.take(wanted))) == wanted
        assert contents.evictions == evicted
        assert ledger.evictions == len(evicted)

    def test_a_use_makes_a_page_the_last_to_go(self) -> None:
        contents = Kept(0, 1, 2)
        ledger = a_ledger(total=3, contents=contents)
        ledger.give_back(ledger.take(3))
        ledger.hold([2])
        ledger.give_back([2])
        assert ledger.cached_pages() == (1, 0, 2)
        ledger.take(3)
        assert contents.evictions == [1, 0, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param(lambda held: [], "page 0: 1 references, 0 holders", id="a page is lost"),
        pytest.param(
            lambda held: [held, held], "page 0: 1 references, 2 holders", id="two requests hold the same pages"
        ),
        pytest.param(
            lambda held: [(*held, 3)], "page 3: 0 references, 1 holders, 1 times free", id="a free page is held"
        ),
        pytest.param(
            lambda held: [(*held, 2)], "page 2: 0 references, 1 holders, .* 1 times cached", id="a cached one is"
        ),
        pytest.param(lambda held: [(*held, *held)], "holds a page twice", id="one request holds a page twice"),
        pytest.param(lambda held: [held, (4,)], "page 4: does not exist, of 4", id="a page too many"),
        pytest.param(lambda held: [held, (-1,)], "page -1: does not exist, of 4", id="a page too few"),
    ],
)
def test_the_check_sees_what_is_wrong(wrong: Callable[[tuple[int, ...]], Holdings], said: str) -> None:
    ledger = a_ledger(contents=Kept(2))
    *held, cached = ledger.take(3)
    ledger.give_back([cached])
    ledger.check([tuple(held)])
    with pytest.raises(LedgerBroken, match=said):
        ledger.check(wrong(tuple(held)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda ledger: ledger._free.append(3), "page 3: .* 2 times free", id="a page is free twice"),
        pytest.param(lambda ledger: ledger._free.remove(3), "page 3: .* 0 times free", id="a page is nowhere"),
        pytest.param(
            lambda ledger: ledger._cached.update({3: None}), "page 3: .* 1 times cached", id="free and cached"
        ),
        pytest.param(
            lambda ledger: ledger._cached.update({0: None}), "page 0: .* 1 times cached", id="held and cached"
        ),
    ],
)
def test_the_check_sees_what_a_bug_in_the_ledger_would_do(damage: Callable[[PageLedger], None], said: str) -> None:
    ledger = a_ledger()
    held = ledger.take(2)
    damage(ledger)
    with pytest.raises(LedgerBroken, match=said):
        ledger.check([held])


@given(sizes=st.lists(st.integers(0, 9), max_size=30), kept=st.sets(st.integers(0, 15)), pick=st.data())
def test_pages_neither_leak_nor_double(sizes: Sequence[int], kept: set[int], pick: st.DataObject) -> None:
    ledger = a_ledger(total=16, contents=Kept(*kept))
    holdings: Holdings = []
    for size in sizes:
        if size <= ledger.available:
            holdings.append(ledger.take(size))
        else:
            ledger.give_back(holdings.pop(pick.draw(st.integers(0, len(holdings) - 1))))
        ledger.check(holdings)
    for holding in holdings:
        ledger.give_back(holding)
    ledger.check([])
    assert ledger.available == 16
    assert set(ledger.cached_pages()) <= kept
