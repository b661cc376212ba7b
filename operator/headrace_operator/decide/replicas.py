"""The decision: how many replicas, and why. Pure: everything it knows is an argument, everything it says is a value.

work       arriving work / (capacity of one replica x utilization), and what the backlog needs beside it
queueWait  ready x wait / target, at most twice, when the p95 wait breaks the target that `work` did not foresee
result     = max of both, then the rules of `rules.py` in order; the first ones make the recommendation
             of which the scale-down window takes the maximum
"""

import math
from dataclasses import dataclass, replace

from headrace_operator.decide import messages, rules
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.rules import MOST_SLOTS, Clamp
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.supply import drain_time, replicas_to_catch_up
from headrace_operator.service import Mode

MOST_AT_ONCE = 2.0  # the promise proposes at most this multiple of the ready replicas
MOST_CATCHING_UP = 1.5  # times what arriving work needs: a backlog passes, a GPU that was bought for it stays a while
SETTLE = 4.0  # seconds after the ready pods changed before queue waits speak about the new supply
HAIR = 1e-9  # of a replica: what floating point may be off


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one signal asks for."""

    signal: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    current: int  # replicas decided before this
    reason: Reason
    message: str  # with the numbers
    signals: Signals
    proposals: tuple[Proposal, ...]
    clamps: tuple[Clamp, ...]


def decide(situation: Situation) -> tuple[History, Decision]:
    """The next number of replicas with its reason, and the history that remembers the recommendation."""
    proposals = _proposals(situation)
    wanted = max((proposal.replicas for proposal in proposals), default=situation.current)
    recommended, early = rules.apply(rules.RECOMMENDATION, situation, wanted)
    situation = replace(situation, history=_remembered(situation, recommended))
    replicas, late = rules.apply(rules.LIMITS, situation, recommended)
    clamps = (*early, *late)
    reason = _reason(situation, proposals, clamps, replicas)
    return situation.history.decided(replicas, situation.now), Decision(
        replicas=replicas,
        current=situation.current,
        reason=reason,
        message=messages.message(situation, reason, replicas, messages.because(proposals)),
        signals=situation.signals,
        proposals=tuple(proposals),
        clamps=clamps,
    )


def _remembered(situation: Situation, recommended: int) -> History:
    scaling = situation.scaling
    bounded = min(max(recommended, scaling.min_replicas), scaling.max_replicas)
    return situation.history.recommended(bounded, scaling.scale_down_window, situation.now)


def _proposals(situation: Situation) -> list[Proposal]:
    if situation.scaling.mode is Mode.PAUSED or situation.signals.all_missing:
        return []
    candidates = (_by_work(situation), _by_slots(situation), _by_queue_wait(situation))
    return [proposal for proposal in candidates if proposal]


def _by_work(situation: Situation) -> Proposal | None:
    load, signals = situation.load, situation.signals
    if load is None:
        return None
    needed = max(1, math.ceil(load - HAIR))
    catching_up = min(replicas_to_catch_up(situation), math.floor(load * MOST_CATCHING_UP))
    why = (
        f"{signals.demand:.0f} tok/s arrive and {signals.backlog:.0f} tokens wait, "
        f"a replica carries {signals.capacity:.0f} tok/s at {situation.scaling.utilization:.0%}"
    )
    if catching_up > needed:
        why += f", {catching_up - needed} more until the backlog is gone"
    return Proposal("work", max(needed, catching_up), why)


def _by_slots(situation: Situation) -> Proposal | None:
    """Until a replica was saturated once, nothing says how much it carries: keep what holds the requests in flight."""
    signals = situation.signals
    if signals.capacity or not signals.max_running:
        return None
    holds = max(1, math.ceil(signals.in_flight / (signals.max_running * MOST_SLOTS) - HAIR))
    why = f"{signals.in_flight} requests in flight, no replica was saturated yet to learn what it carries"
    return Proposal("slots", min(holds, situation.current), why)


def _by_queue_wait(situation: Situation) -> Proposal | None:
    """Silent while the queue will be gone before another replica could start: a backlog is not a lack of supply."""
    signals, target = situation.signals, situation.scaling.queue_wait_target
    wait, drain = signals.typical_wait, drain_time(situation.history)
    if wait is None or wait <= target or signals.queue_drains_in <= drain:
        return None
    ready = len(situation.observed.ready)
    is_enough_by_work = signals.capacity and (signals.demand or math.inf) < ready * signals.capacity
    if signals.ready_unchanged < (drain if is_enough_by_work else SETTLE):
        return None
    replicas = math.ceil(ready * min(MOST_AT_ONCE, wait / target) - HAIR)
    told = f"p95 wait {messages.milliseconds(wait)} is above its target {messages.milliseconds(target)}"
    return Proposal("queueWait", replicas, f"{told} on most of {ready} ready")


def _reason(situation: Situation, proposals: list[Proposal], clamps: tuple[Clamp, ...], replicas: int) -> Reason:
    current, scaling = situation.current, situation.scaling
    if replicas > current:
        wanted = max((proposal.replicas for proposal in proposals), default=0)
        if wanted <= current:
            return Reason.BELOW_MINIMUM
        strongest = max(proposals, key=lambda proposal: proposal.replicas)
        return Reason.QUEUE_WAIT_HIGH if strongest.signal == "queueWait" else Reason.LOAD_ROSE
    if replicas < current:
        return Reason.ABOVE_MAXIMUM if current > scaling.max_replicas else Reason.LOAD_FELL
    if problem := rules.trouble(situation):
        return problem
    # Being at the minimum is no news; every other rule that held the number is.
    quiet = {Reason.BELOW_MINIMUM}
    if replicas <= scaling.min_replicas:
        quiet |= {Reason.HOLDING_FOR_WINDOW, Reason.HOLDING_TARGET}
    held = [clamp.reason for clamp in clamps if clamp.reason not in quiet]
    return held[-1] if held else Reason.STEADY
