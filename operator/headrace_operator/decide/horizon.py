"""How long a start takes, and what is left of one: from the start-up ledger, or a guess before the first was timed."""

from headrace_operator.decide.history import History
from headrace_operator.decide.values import PodState

START_GUESS = 30.0  # seconds from creation to Ready before the first start was timed


def start_time(history: History) -> float:
    """Seconds until a replica that is ordered now serves."""
    known = history.startup_quantile(0.95)
    return START_GUESS if known is None else known


def remaining(pod: PodState, start: float, now: float) -> float:
    """Seconds until a pod serves, of a `start` of so many; 0 for one that should by now."""
    return max(0.0, pod.created_at + start - now)
