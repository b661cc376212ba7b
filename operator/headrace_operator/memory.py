"""What the operator remembers of one object between two ticks."""

from dataclasses import dataclass, field

from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.refusal import Refusal
from headrace_operator.decide.rollouts import Progress
from headrace_operator.decide.startup import Ledger


@dataclass(slots=True)
class Memory:
    """Changed by each look, and lost with the process: what must not be lost is in status."""

    uid: str
    history: History
    said: Reason | None = None  # the last decision that was announced
    direction: int = 0  # of the last change of replicas, to count reversals
    status_at: float = 0.0  # epoch seconds of the last write
    service_generation: int = -1  # generation for which the Service was applied
    ledger: Ledger = field(default_factory=Ledger)  # of starts
    refusal: Refusal | None = None  # of pods, by a ResourceQuota, at the last try
    progress: Progress | None = None  # of the rollout; None before the first look
    no_routing: str | None = None  # why the API server did not make what spec.routing asks for, at the last try
    routed_at: float = 0.0  # epoch seconds of that try
    cut_off: frozenset[str] = frozenset()  # UIDs of pods deleted with requests inside, until they are gone

    @property
    def refused(self) -> str | None:
        """Why there are no more pods."""
        return self.refusal.message if self.refusal else None
