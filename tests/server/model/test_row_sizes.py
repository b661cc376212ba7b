"""A few sizes for any number of rows: what they cost, and how few they are."""

import pytest
from headrace_server.model.projection import Packed, Plain
from headrace_server.model.row_sizes import RowSizes
from hypothesis import given
from hypothesis import strategies as st

MOST = 2048  # rows of a step, by default
FEW = RowSizes(fewest=4, few=True)


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, 0), (1, 4), (4, 4), (5, 5), (16, 16), (17, 18), (32, 32), (33, 36), (1000, 1024), (1025, 1152)],
)
def test_the_next_size_is_taken(rows: int, size: int) -> None:
    assert FEW.at_least(rows) == size


@given(st.integers(4, 100_000))
def test_no_step_is_padded_by_more_than_an_eighth(rows: int) -> None:
    size = FEW.at_least(rows)
    assert rows <= size <= rows * 9 / 8
    assert FEW.at_least(size) == size


def test_sizes_are_few_and_padding_is_below_a_twentieth() -> None:
    sizes = [FEW.at_least(rows) for rows in range(1, MOST + 1)]
    assert len(set(sizes)) == 69
    assert sum(sizes) / sum(range(1, MOST + 1)) < 1.05


def test_plain_products_are_not_padded() -> None:
    assert [Plain().rows.at_least(rows) for rows in (0, 1, 3, 17, 1000)] == [0, 1, 3, 17, 1000]


def test_onednn_gets_a_few_sizes() -> None:
    assert Packed().rows == FEW
