"""What the ordered replicas will do about a backlog, and how many more it would take.

Loading replicas are credited from the moment at which the start-up ledger expects them: ordering again for a queue that
grows only until they are ready is how autoscalers end at their maximum.
"""

import math

from headrace_operator.decide.history import History
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.values import PodPhase, PodState

START_GUESS = 30.0  # seconds from creation to Ready before the first start was timed
DRAIN = 10.0  # seconds in which a backlog is to be gone: long enough not to buy a GPU for a blink


def horizon(history: History) -> float:
    """Seconds until a replica that is ordered now serves."""
    known = history.startup_quantile(0.95)
    return START_GUESS if known is None else known


def drain_time(history: History) -> float:
    """Seconds that a backlog may take to go: at least as long as the start-up that let it grow."""
    return max(DRAIN, horizon(history))


def replicas_to_catch_up(situation: Situation) -> int:
    """Replicas with which the backlog is gone one drain time after the last of them could be ready."""
    signals, history = situation.signals, situation.history
    if signals.demand is None or not signals.capacity:
        return 0
    drain = drain_time(history)
    until = horizon(history) + drain
    ordered = [pod for pod in situation.observed.live if pod.phase is not PodPhase.UNSCHEDULABLE]
    seconds = sum(max(0.0, until - remaining_start(pod, history, situation.now)) for pod in ordered)
    short = signals.backlog + signals.demand * until - signals.capacity * seconds
    return len(ordered) + math.ceil(short / (signals.capacity * drain) - 1e-9)


def remaining_start(pod: PodState, history: History, now: float) -> float:
    """Seconds until a pod serves; 0 for one that does, or should by now."""
    return 0.0 if pod.is_ready else max(0.0, pod.created_at + horizon(history) - now)
