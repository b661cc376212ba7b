"""bench/offline_cost.py compares what it says: equal arrivals, with and without offline work beside them."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from machines import Machine
from offline_cost import SETTLING, Pair, measured

MACHINE = Machine(weights=0.008, sequence=0.0002, token=0.00005, read=0.0, gather=0.0)
SECONDS = SETTLING + 10


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair((MACHINE, MACHINE), 4096)


def test_both_sides_answer_the_same_arrivals_and_one_of_them_offline_work_too(pair: Pair) -> None:
    alone, beside = pair.turn(8.0, SECONDS, seed=0)
    assert len(alone.times_to_first_token()) == pytest.approx(80, abs=20)
    assert len(beside.times_to_first_token()) == pytest.approx(len(alone.times_to_first_token()), abs=2)
    assert alone.offline_share() == 0
    assert beside.offline_share() > 0.1


def test_the_capacity_is_what_so_many_places_carry(pair: Pair) -> None:
    """48 tokens of an answer on average, in steps of a full house."""
    assert pair.capacity() == pytest.approx(8 / (48 * MACHINE.seconds(8)), rel=0.15)


def test_a_row_says_what_each_side_had_and_what_offline_work_costs(pair: Pair) -> None:
    row = measured(pair, 0.5, 8.0, SECONDS, turns=2)
    ratio = row["ttft_p50_beside_ms"] / row["ttft_p50_alone_ms"] - 1
    assert row["offline_costs_ttft_p50"]["together"] == pytest.approx(ratio, abs=0.001)
