"""What the ordered replicas will do about a backlog, and how many more it would take.

Loading replicas are credited from the moment at which the start-up ledger expects them: ordering again for a queue that
grows only until they are ready is how autoscalers end at their maximum.
"""

import math

from headrace_operator.decide.situation import Situation

SHORTEST = 1.0  # seconds over which the pace of held requests is taken at least: the first one has waited for none
HAIR = 1e-9  # of a replica: what floating point may be off
DRAIN = 10.0  # seconds in which a backlog is to be gone: long enough not to buy a GPU for a blink


def drain_time(situation: Situation) -> float:
    """Seconds that a backlog may take to go: at least as long as the start-up that let it grow."""
    return max(DRAIN, situation.start_time)


def replicas_to_carry(load: float) -> int:
    """Of arriving work, told in replicas."""
    return max(1, math.ceil(load - HAIR))


def replicas_to_catch_up(situation: Situation) -> int:
    """Replicas with which the backlog is gone one drain time after the last of them could be ready."""
    signals, supply = situation.signals, situation.supply
    if signals.demand is None or not signals.capacity:
        return 0
    drain = drain_time(situation)
    until = situation.start_time + drain
    seconds = supply.ready * until + sum(max(0.0, until - remaining) for remaining in supply.starting)
    short = signals.backlog + signals.demand * until - signals.capacity * seconds
    return supply.ready + len(supply.starting) + math.ceil(short / (signals.capacity * drain) - HAIR)


def replicas_for_held(situation: Situation) -> int:
    """So that what waits at the routers is gone one drain time after the start, and what goes on to come is carried."""
    signals = situation.signals
    if not (signals.capacity and signals.work_per_request):
        return 1  # nobody knows yet what a replica carries
    pace = signals.held / max(SHORTEST, signals.oldest_held)  # requests/s
    arriving = pace * signals.work_per_request / (signals.capacity * situation.policy.utilization)
    waiting = signals.backlog / (signals.capacity * drain_time(situation))
    return max(1, math.ceil(max(arriving, waiting) - HAIR))
