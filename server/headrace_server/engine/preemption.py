"""Who gives up its pages when they run out."""

from collections.abc import Sequence as Listing
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stake:
    """What preempting one running sequence would cost, and bring."""

    lost: int  # tokens that would be computed again
    freed: int  # pages that become available: those that nobody else holds
    priority: int = 0  # larger is more urgent


def victim(stakes: Listing[Stake]) -> int | None:
    """Which of `stakes` (oldest first) to preempt; None when it would free nothing.

    The least urgent, of these the one that loses the least computed work, of these the one that came last. A sequence
    whose pages others hold too is passed over: it would lose its work, and nobody could go on.
    """
    useful = [index for index, stake in enumerate(stakes) if stake.freed]
    return min(useful, key=lambda index: (stakes[index].priority, stakes[index].lost, -index), default=None)
