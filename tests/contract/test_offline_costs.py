"""bench/scheduling.py tells a cost from noise: what its interval says of turns whose cost is known."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from overload.costs import Turn, costs


def turns(cost: float, noise: float) -> list[Turn]:
    """Ten of 200 requests; each turn's machine is slower by up to `noise`, on each side by another share."""
    dice = random.Random(1)

    def side(factor: float) -> list[float]:
        busy = 1 + noise * dice.random()
        return [factor * busy * dice.expovariate(20) for _ in range(200)]

    return [Turn(side(1.0), side(1.0 + cost)) for _ in range(10)]


@pytest.mark.parametrize("percent", [50, 95])
def test_a_cost_that_is_there_is_seen(percent: int) -> None:
    found = costs(turns(0.5, 0.1), percent)
    low, high = found["interval_95"]
    assert 0 < low <= found["together"] <= high
    assert low < 0.5 < high
    assert len(found["of_each_turn"]) == 10


def test_one_that_is_not_there_is_not() -> None:
    low, high = costs(turns(0.0, 0.3), 99)["interval_95"]
    assert low < 0 < high


def test_a_side_without_answers_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="more seconds"):
        costs([Turn([], [0.1])], 99)
