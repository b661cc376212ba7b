"""How far a rollout has come, and for how long it has not come any further: a Deployment's progressDeadlineSeconds."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace_operator.decide.values import Observed, PodPhase, PodState


@dataclass(frozen=True, slots=True)
class Headway:
    """What was reached. A pod that is lost again takes nothing back, so that a loop of losses is no progress."""

    at: float = 0.0  # when it came further last, epoch seconds
    updated: int = 0  # the most pods of the new revision that were Ready together
    outdated: int = 0  # the fewest pods of other revisions
    is_overdue: bool = False  # nothing for longer than the deadline

    @classmethod
    def begun(cls, observed: Observed, revision: str, now: float) -> "Headway":
        return cls(now, *_counts(observed, revision))

    def made(self, observed: Observed, revision: str, deadline: float, now: float) -> "Headway":
        """`deadline`: seconds."""
        updated, outdated = _counts(observed, revision)
        if updated > self.updated or outdated < self.outdated:
            return Headway(now, max(updated, self.updated), min(outdated, self.outdated))
        return replace(self, is_overdue=now - self.at > deadline)


def obstacle(observed: Observed, revision: str) -> str:
    """What the first pod of a revision that is not Ready says; empty where none stands in the way."""
    return laggard(pod for pod in observed.live if pod.revision == revision) or observed.refused or ""


def laggard(pods: Iterable[PodState]) -> str:
    """What the first of these that is not Ready says; empty where all are."""
    waiting = [pod for pod in pods if pod.phase is not PodPhase.READY]
    return f"{waiting[0].name} is {waiting[0].phase}: {waiting[0].message}".removesuffix(": ") if waiting else ""


def _counts(observed: Observed, revision: str) -> tuple[int, int]:
    kept = (*observed.live, *observed.standby)
    return sum(pod.revision == revision for pod in observed.ready), sum(pod.revision != revision for pod in kept)
