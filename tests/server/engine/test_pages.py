"""A page belongs to one request or to nobody."""

import pytest
from headrace_server.engine.pages import LedgerBroken, PageLedger
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("tokens", "pages"), [(1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_page_that_is_begun_is_needed_whole(tokens: int, pages: int) -> None:
    assert PageLedger(total=8, page_size=16).pages_for(tokens) == pages


def test_more_pages_than_are_free_cannot_be_taken() -> None:
    ledger = PageLedger(total=4, page_size=16)
    ledger.take(3)
    with pytest.raises(LedgerBroken, match="2 pages were asked for, 1 are free"):
        ledger.take(2)


def test_a_page_cannot_be_given_back_twice() -> None:
    ledger = PageLedger(total=4, page_size=16)
    pages = ledger.take(2)
    ledger.give_back(pages)
    with pytest.raises(LedgerBroken, match="given back twice"):
        ledger.give_back(pages)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda held: [], id="a page is lost"),
        pytest.param(lambda held: [held, held], id="two requests hold the same pages"),
        pytest.param(lambda held: [(*held, 3)], id="a request holds a free page"),
    ],
)
def test_the_check_sees_what_is_wrong(wrong) -> None:  # type: ignore[no-untyped-def]
    ledger = PageLedger(total=4, page_size=16)
    held = ledger.take(2)
    ledger.check([held])
    with pytest.raises(LedgerBroken, match="do not make up 4"):
        ledger.check(wrong(held))


@given(st.lists(st.integers(0, 9), max_size=30), st.randoms(use_true_random=False))
def test_pages_neither_leak_nor_double(sizes, random) -> None:  # type: ignore[no-untyped-def]
    ledger = PageLedger(total=16, page_size=16)
    holdings: list[tuple[int, ...]] = []
    for size in sizes:
        if size <= ledger.free:
            holdings.append(ledger.take(size))
        elif holdings:
            ledger.give_back(holdings.pop(random.randrange(len(holdings))))
        ledger.check(holdings)
    for holding in holdings:
        ledger.give_back(holding)
    assert ledger.free == 16
