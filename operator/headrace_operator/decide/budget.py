"""How many replicas a namespace's GPU budget allows one of its deployments.

A minimum comes before growth: beyond its own minReplicas, a deployment leaves alone what the others still lack of
theirs. Nobody loses what he has, and nobody is left without any replica: a budget is a limit of growth.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holding:
    """What one deployment holds of the GPUs of its namespace."""

    gpus: int  # of one replica
    min_replicas: int
    replicas: int  # ordered or live, whichever is more
    beside: int = 0  # pods that hold GPUs and are no replicas: warm standby, draining, terminating
    wanting: int = 0  # of these: standby pods that do not exist yet, whose place is kept

    @property
    def held(self) -> int:
        return (self.replicas + self.beside) * self.gpus

    @property
    def assured(self) -> int:
        """With the one replica that everybody gets."""
        return (max(self.replicas, 1) + self.beside) * self.gpus

    @property
    def owed(self) -> int:
        """With what it lacks of its minimum."""
        return (max(self.replicas, self.min_replicas) + self.beside) * self.gpus

    @property
    def taken(self) -> int:
        """With what it lacks of its minimum, and without what only has its place kept."""
        return self.owed - self.wanting * self.gpus


def cap(budget: int, own: Holding, others: Iterable[Holding]) -> int | None:
    """The most replicas; at least what runs, and 1. None for a deployment that takes no GPU."""
    if not own.gpus:
        return None
    others = tuple(others)
    free = budget - own.beside * own.gpus
    at_once = (free - sum(other.assured for other in others)) // own.gpus
    to_grow = (free - sum(other.owed for other in others)) // own.gpus
    return max(min(own.min_replicas, at_once), to_grow, own.replicas, 1)


def standby_room(budget: int, own: Holding, others: Iterable[Holding]) -> int | None:
    """How many standby pods may be made beside those that exist. None for a deployment that takes no GPU.

    Places that others keep for a standby of theirs are not taken: or two that want the last one would both go without.
    """
    if not own.gpus:
        return None
    return max(0, (budget - own.taken - sum(other.taken for other in others)) // own.gpus)
