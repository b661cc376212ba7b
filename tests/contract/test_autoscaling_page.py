"""docs/autoscaling.md names every reason and every clamp, in the order in which the rules apply."""

import re
from pathlib import Path

from headrace_operator.decide import rules
from headrace_operator.decide.reasons import Reason

PAGE = (Path(__file__).parents[2] / "docs" / "autoscaling.md").read_text()


def first_column(heading: str) -> list[str]:
    """Of the table that begins with this heading."""
    table = PAGE.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_every_reason_is_explained_once() -> None:
    assert sorted(first_column("reason")) == sorted(Reason)


def test_the_clamps_are_told_in_their_order() -> None:
    order = [reason for reason, _ in rules.RECOMMENDATION + rules.SUPPLY + rules.BOUNDS]
    assert first_column("clamp") == order
