"""The rules that bound a wanted number of replicas, one function each, in the order in which they apply."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from headrace_operator.decide.history import WINDOW
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.values import PodPhase
from headrace_operator.service import Mode

MOST_SLOTS = 0.9  # scale down only if this share of the remaining slots holds what runs and waits
MARGIN = 0.9  # ... and arriving work takes at most this share of the utilization target: or noise would bring them back


@dataclass(frozen=True, slots=True)
class Clamp:
    """One rule that changed the number."""

    reason: Reason
    before: int
    after: int


Rule = Callable[[Situation, int], int]
Rules = tuple[tuple[Reason, Rule], ...]


def apply(rules: Rules, situation: Situation, replicas: int) -> tuple[int, tuple[Clamp, ...]]:
    clamps = []
    for reason, rule in rules:
        after = rule(situation, replicas)
        if after != replicas:
            clamps.append(Clamp(reason, replicas, after))
        replicas = after
    return replicas, tuple(clamps)


def _target(situation: Situation, replicas: int) -> int:
    """Fewer only if they would hold the target: room for what runs and waits, and a margin for what arrives."""
    signals, current = situation.signals, situation.current
    if replicas >= current or signals.all_missing:
        return replicas
    wait = signals.queue_wait_p95
    if not signals.max_running or (wait is not None and wait > situation.scaling.queue_wait_target):
        return current
    slots = signals.in_flight / (signals.max_running * MOST_SLOTS)
    holds = math.ceil(max(slots, (situation.load or 0.0) / MARGIN) - 1e-9)
    return min(current, max(replicas, holds))


def _missing(situation: Situation, replicas: int) -> int:
    """Unknown is not zero: a silent pod counts as full when fewer are considered, as empty when more are."""
    signals = situation.signals
    is_blind = signals.answered < signals.asked or not signals.asked
    return max(replicas, situation.current) if is_blind else replicas


def _window(situation: Situation, replicas: int) -> int:
    """Down only to the most that was recommended within the window; and in one go, not along a falling edge."""
    history, current = situation.history, situation.current
    if situation.now - history.lowered_at < min(WINDOW, situation.scaling.scale_down_window):
        return max(replicas, current)
    highest = max((value for _, value in history.recommendations), default=replicas)
    return max(replicas, min(current, highest))


def _scheduler(situation: Situation, replicas: int) -> int:
    """While pods wait for a GPU, ordering more changes nothing; needing fewer still does."""
    is_full = bool(situation.observed.in_phase(PodPhase.UNSCHEDULABLE))
    return min(replicas, max(situation.current, situation.scaling.min_replicas)) if is_full else replicas


def _minimum(situation: Situation, replicas: int) -> int:
    return max(replicas, situation.scaling.min_replicas)


def _maximum(situation: Situation, replicas: int) -> int:
    return min(replicas, situation.scaling.max_replicas)


RECOMMENDATION: Rules = ((Reason.HOLDING_TARGET, _target), (Reason.METRICS_MISSING, _missing))
LIMITS: Rules = (
    (Reason.HOLDING_FOR_WINDOW, _window),
    (Reason.INSUFFICIENT_GPU, _scheduler),
    (Reason.BELOW_MINIMUM, _minimum),
    (Reason.AT_MAXIMUM, _maximum),
)


def trouble(situation: Situation) -> Reason | None:
    """Why nothing more can be said or done, when a person should know it."""
    observed = situation.observed
    if situation.scaling.mode is Mode.PAUSED:
        return Reason.PAUSED
    if observed.live and len(observed.in_phase(PodPhase.MODEL_REFUSED)) == len(observed.live):
        return Reason.MODEL_REFUSED
    if observed.in_phase(PodPhase.UNSCHEDULABLE):
        return Reason.INSUFFICIENT_GPU
    if not observed.ready:
        return Reason.NONE_READY
    return Reason.METRICS_MISSING if situation.signals.all_missing else None
