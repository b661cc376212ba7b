"""The rules that bound a wanted number of replicas, one function each, in the order in which they apply."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from headrace_operator.decide.history import WINDOW
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.situation import Situation
from headrace_operator.service import Mode

MOST_SLOTS = 0.9  # scale down only if this share of the remaining slots holds what runs and waits
MOST_KV = 0.9  # ... and this share of the remaining KV pages what requests hold: without pages a free slot is none
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
    if not signals.max_running or (wait is not None and wait > situation.policy.queue_wait_target):
        return current
    return min(current, max(replicas, _holding(situation, full=0)))


def _missing(situation: Situation, replicas: int) -> int:
    """A silent pod counts as full when fewer are considered. Empty when more are: it adds nothing to what is wanted."""
    signals, current = situation.signals, situation.current
    if not signals.answered:
        return max(replicas, current)
    silent = signals.asked - signals.answered
    if not silent or replicas >= current:
        return replicas
    if not signals.max_running:  # nobody said how many requests a replica holds
        return current
    return min(current, max(replicas, _holding(situation, full=silent)))


def _holding(situation: Situation, *, full: int) -> int:
    """Replicas that hold the load of those that answered, and of `full` others that are taken to be at their target."""
    signals = situation.signals
    slots = (signals.in_flight / signals.max_running + full) / MOST_SLOTS
    load = ((situation.load or 0.0) + full) / MARGIN
    caches = (signals.kv_held + full) / MOST_KV
    return math.ceil(max(slots, load, caches) - 1e-9)


def _window(situation: Situation, replicas: int) -> int:
    """Down only to the most that was recommended within the window; and in one go, not along a falling edge."""
    held = max(replicas, _held(situation, replicas))
    if replicas == 0 and held == 1:
        return 0  # the last replica has a window of its own, idleTimeout
    return held if held > situation.policy.min_replicas else replicas  # below it the minimum is why, not the window


def _held(situation: Situation, replicas: int) -> int:
    current, policy = situation.current, situation.policy
    if situation.lowered_ago is not None and situation.lowered_ago < min(WINDOW, policy.scale_down_window):
        return current
    peak = replicas if situation.peak is None else situation.peak
    # What Shadow would have ordered within the window it would still have.
    return peak if policy.mode is Mode.SHADOW else min(current, peak)


def _scheduler(situation: Situation, replicas: int) -> int:
    """While pods have no place, ordering more changes nothing; needing fewer still does."""
    is_full = situation.supply.without_gpu.pods > 0
    return min(replicas, max(situation.current, situation.least)) if is_full else replicas


def _minimum(situation: Situation, replicas: int) -> int:
    return max(replicas, situation.least)


def _maximum(situation: Situation, replicas: int) -> int:
    return min(replicas, situation.policy.max_replicas)


def _budget(situation: Situation, replicas: int) -> int:
    return replicas if situation.budget is None else min(replicas, situation.budget)


UNKNOWN: Rules = ((Reason.METRICS_MISSING, _missing),)
RECOMMENDATION: Rules = ((Reason.HOLDING_TARGET, _target), *UNKNOWN)
SUPPLY: Rules = ((Reason.HOLDING_FOR_WINDOW, _window), (Reason.INSUFFICIENT_GPU, _scheduler))
BOUNDS: Rules = ((Reason.BELOW_MINIMUM, _minimum), (Reason.AT_MAXIMUM, _maximum), (Reason.OVER_BUDGET, _budget))
LIMITS: Rules = (*SUPPLY, *BOUNDS)


def trouble(situation: Situation) -> Reason | None:
    """Why nothing more can be said or done, when a person should know it."""
    supply, signals = situation.supply, situation.signals
    if supply.live and supply.refused.pods == supply.live:
        return Reason.MODEL_REFUSED
    if supply.without_gpu.pods:
        return Reason.INSUFFICIENT_GPU
    if not signals.asked:
        return Reason.NONE_READY
    return Reason.METRICS_MISSING if signals.all_missing else None
