"""Everything a decision may look at, as one value."""

from dataclasses import dataclass

from headrace_operator.decide.history import History
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.values import Observed
from headrace_operator.service import Scaling


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at."""

    scaling: Scaling
    observed: Observed
    signals: Signals
    history: History
    now: float

    @property
    def current(self) -> int:
        """Replicas decided last; a pod that was lost since then is still wanted."""
        return len(self.observed.live) if self.history.desired is None else self.history.desired

    @property
    def load(self) -> float | None:
        """Arriving work in replicas, at the wanted utilization. None when not known."""
        if self.signals.demand is None or not self.signals.capacity:
            return None
        return self.signals.demand / (self.signals.capacity * self.scaling.utilization)
