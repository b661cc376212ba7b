"""Buckets are read like the tuple of pairs that they stand for."""

import math

from headrace_operator.decide.buckets import Bucket, Buckets
from headrace_operator.decide.waits import merged, quantile
from hypothesis import given
from hypothesis import strategies as st

counts = st.lists(st.floats(0, 1e9), max_size=8)


def pairs(counts: list[float]) -> tuple[Bucket, ...]:
    return tuple((math.inf if index == len(counts) - 1 else float(index), count) for index, count in enumerate(counts))


@given(counts=counts)
def test_they_are_read_as_what_they_were_made_from(counts: list[float]) -> None:
    plain = pairs(counts)
    kept = Buckets(plain)
    assert (kept, tuple(kept), len(kept)) == (plain, plain, len(plain))
    assert plain == kept
    assert hash(kept) == hash(Buckets(kept))
    assert (kept[-1:], dict(kept)) == (plain[-1:], dict(plain))
    assert quantile(merged([tuple(kept)]), 0.95) == quantile(merged([plain]), 0.95)


def test_others_are_not_equal() -> None:
    assert Buckets([(1.0, 2.0)]) != Buckets([(1.0, 3.0)])
    assert Buckets([]) != "text"
