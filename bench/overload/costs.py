"""What one side of paired turns costs more than the other, and how sure that is on a machine that others use, too."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comparison.percentile import milliseconds

DRAWS = 1000
SURE = 0.95


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds to the first token, of equal arrivals."""

    alone: Sequence[float]
    beside: Sequence[float]


def costs(turns: Sequence[Turn], percent: int) -> dict[str, Any]:
    """Beside over alone, minus 1: of all turns together, with the interval in which turns drawn anew leave it 95 times
    of 100 (a bootstrap of turns, as requests of one turn met the same machine); and the median of the turns' own."""
    dice = random.Random(percent)
    drawn = sorted(_cost([dice.choice(turns) for _ in turns], percent) for _ in range(DRAWS))
    edge = round(DRAWS * (1 - SURE) / 2)
    of_each = [_cost([turn], percent) for turn in turns]
    return {
        "together": round(_cost(turns, percent), 3),
        "interval_95": [round(drawn[edge], 3), round(drawn[-edge - 1], 3)],
        "median_of_turns": round(statistics.median(of_each), 3),
        "of_each_turn": [round(cost, 3) for cost in of_each],
    }


def _cost(turns: Sequence[Turn], percent: int) -> float:
    alone = milliseconds([second for turn in turns for second in turn.alone], percent)
    beside = milliseconds([second for turn in turns for second in turn.beside], percent)
    if not alone or not beside:
        raise ValueError("a turn brought no first token on one side; ask for more seconds")
    return beside / alone - 1
