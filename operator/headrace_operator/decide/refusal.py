"""When to ask again for pods that a ResourceQuota refused: less and less often, and at once when something has changed.

Something has changed when a pod of the deployment is gone, which gives back what it took, and when the manifest was
edited. What others give back shows only by asking.
"""

from dataclasses import dataclass

from headrace_operator.decide.actions import Action, CreatePod
from headrace_operator.decide.values import Observed

FIRST = 2.0  # seconds; doubles
LONGEST = 30.0


@dataclass(frozen=True, slots=True)
class Refusal:
    message: str  # the API server's
    at: float  # epoch seconds
    generation: int  # of the manifest
    uids: frozenset[str]  # of all pods that there were
    delay: float = FIRST  # seconds until the next try

    def holds(self, observed: Observed, generation: int, now: float) -> bool:
        """Would it be refused again?"""
        is_as_before = self.generation == generation and self.uids <= _uids(observed)
        return is_as_before and now < self.at + self.delay


def wants_pods(actions: list[Action]) -> bool:
    return any(isinstance(action, CreatePod) for action in actions)


def without_pods(actions: list[Action]) -> list[Action]:
    return [action for action in actions if not isinstance(action, CreatePod)]


def refused(before: Refusal | None, message: str, observed: Observed, generation: int, now: float) -> Refusal:
    """After one more try. `before`: of the try before; None where that one succeeded, or there was none."""
    uids = _uids(observed)
    is_again = before is not None and before.generation == generation and before.uids <= uids
    delay = min(LONGEST, 2 * before.delay) if before and is_again else FIRST
    return Refusal(message, now, generation, uids, delay)


def _uids(observed: Observed) -> frozenset[str]:
    return frozenset(pod.uid for pod in observed.everybody)
