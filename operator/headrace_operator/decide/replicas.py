"""The decision: how many replicas, and why. Pure: everything it knows is an argument, everything it says is a value.

need     = (arriving work + backlog / DRAIN) / (capacity of one replica x utilization)
promise  = ready x wait / target, at most twice, when the p95 wait breaks the target that the need did not foresee
result   = max(need, promise), then the clamps in order: window, target, missing data, scheduler, bounds
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.values import Observed, PodPhase
from headrace_operator.service import Mode, Scaling

DRAIN = 10.0  # seconds in which a backlog is to be gone: long enough not to buy a GPU for a blink
MOST_AT_ONCE = 2.0  # the promise proposes at most this multiple of the ready replicas
SLOT_SHARE = 0.9  # scale down only if this share of the remaining slots holds what runs and waits


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one signal asks for."""

    signal: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Clamp:
    """One rule that changed the number."""

    reason: Reason
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    current: int
    reason: Reason
    message: str  # with the numbers
    signals: Signals
    proposals: tuple[Proposal, ...]
    clamps: tuple[Clamp, ...]


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
        """Replicas ordered: live pods, whatever they are doing."""
        return len(self.observed.live)


def decide(situation: Situation) -> tuple[History, Decision]:
    """The next number of replicas with its reason, and the history that remembers the recommendation."""
    proposals = _proposals(situation)
    wanted = max((proposal.replicas for proposal in proposals), default=situation.current)
    scaling = situation.scaling
    bounded = min(max(wanted, scaling.min_replicas), scaling.max_replicas)
    history = situation.history.recommended(bounded, scaling.scale_down_window, situation.now)

    replicas, clamps = wanted, []
    for reason, rule in _CLAMPS:
        after = rule(situation, history, replicas)
        if after != replicas:
            clamps.append(Clamp(reason, replicas, after))
        replicas = after
    reason = _reason(situation, proposals, clamps, replicas)
    message = _message(situation, reason, replicas, proposals)
    return history, Decision(
        replicas, situation.current, reason, message, situation.signals, tuple(proposals), tuple(clamps)
    )


def _proposals(situation: Situation) -> list[Proposal]:
    if situation.scaling.mode is Mode.PAUSED or not situation.observed.ready or situation.signals.all_missing:
        return []
    return [proposal for proposal in (_by_work(situation), _by_queue_wait(situation)) if proposal]


def _by_work(situation: Situation) -> Proposal | None:
    signals, scaling = situation.signals, situation.scaling
    if signals.demand is None or not signals.capacity:
        return _without_capacity(situation)
    # A silent pod's share of the demand is unknown; it is taken to be as busy as the others, never idle.
    demand = signals.demand * signals.asked / signals.answered
    need = (demand + signals.backlog / DRAIN) / (signals.capacity * scaling.utilization)
    why = (
        f"{demand:.0f} tok/s arrive and {signals.backlog:.0f} tokens wait, "
        f"a replica carries {signals.capacity:.0f} tok/s at {scaling.utilization:.0%}"
    )
    return Proposal("work", max(1, math.ceil(need - 1e-9)), why)


def _without_capacity(situation: Situation) -> Proposal:
    """No replica was ever saturated: nothing says more are needed; as many as hold what runs and waits."""
    signals = situation.signals
    in_flight = signals.running + signals.waiting
    slots = (
        max(1, math.ceil(in_flight / (signals.max_running * SLOT_SHARE))) if signals.max_running else situation.current
    )
    return Proposal("slots", min(slots, situation.current), f"{in_flight} requests in flight, capacity not learned yet")


def _by_queue_wait(situation: Situation) -> Proposal | None:
    signals, target = situation.signals, situation.scaling.queue_wait_target
    wait = signals.queue_wait_p95
    if wait is None or wait <= target or not signals.waits_are_settled:
        return None
    ready = len(situation.observed.ready)
    replicas = math.ceil(ready * min(MOST_AT_ONCE, wait / target) - 1e-9)
    return Proposal("queueWait", replicas, f"p95 wait {_ms(wait)} is above its target {_ms(target)} on {ready} ready")


def _window(situation: Situation, history: History, replicas: int) -> int:
    if replicas >= situation.current:
        return replicas
    return max(replicas, min(situation.current, max(value for _, value in history.recommendations)))


def _target(situation: Situation, history: History, replicas: int) -> int:
    """Fewer only if what runs and waits fits into the slots that remain, and no wait breaks the target already."""
    del history
    signals = situation.signals
    if replicas >= situation.current or signals.all_missing:
        return replicas
    wait = signals.queue_wait_p95
    if wait is not None and wait > situation.scaling.queue_wait_target:
        return situation.current
    if not signals.max_running:
        return situation.current
    in_flight = signals.running + signals.waiting
    hold = math.ceil(in_flight / (signals.max_running * SLOT_SHARE) - 1e-9)
    return min(situation.current, max(replicas, hold))


def _missing(situation: Situation, history: History, replicas: int) -> int:
    del history
    signals = situation.signals
    is_blind = signals.answered < signals.asked or not situation.observed.ready
    return max(replicas, situation.current) if is_blind else replicas


def _scheduler(situation: Situation, history: History, replicas: int) -> int:
    """While pods wait for a GPU, ordering more changes nothing; needing fewer still does."""
    del history
    is_full = bool(situation.observed.in_phase(PodPhase.UNSCHEDULABLE))
    return min(replicas, max(situation.current, situation.scaling.min_replicas)) if is_full else replicas


def _minimum(situation: Situation, history: History, replicas: int) -> int:
    del history
    return max(replicas, situation.scaling.min_replicas)


def _maximum(situation: Situation, history: History, replicas: int) -> int:
    del history
    return min(replicas, situation.scaling.max_replicas)


Rule = Callable[[Situation, History, int], int]
_CLAMPS: tuple[tuple[Reason, Rule], ...] = (
    (Reason.HOLDING_FOR_WINDOW, _window),
    (Reason.HOLDING_TARGET, _target),
    (Reason.METRICS_MISSING, _missing),
    (Reason.INSUFFICIENT_GPU, _scheduler),
    (Reason.BELOW_MINIMUM, _minimum),
    (Reason.AT_MAXIMUM, _maximum),
)


def _reason(situation: Situation, proposals: list[Proposal], clamps: list[Clamp], replicas: int) -> Reason:
    current = situation.current
    if replicas > current:
        return _reason_for_more(situation, proposals, clamps)
    if replicas < current:
        return Reason.ABOVE_MAXIMUM if current > situation.scaling.max_replicas else Reason.LOAD_FELL
    # Being at the minimum is no news; every other rule that held the number is.
    held = [clamp.reason for clamp in clamps if clamp.reason is not Reason.BELOW_MINIMUM]
    return held[-1] if held else _reason_for_steady(situation)


def _reason_for_more(situation: Situation, proposals: list[Proposal], clamps: list[Clamp]) -> Reason:
    if (
        any(clamp.reason is Reason.BELOW_MINIMUM for clamp in clamps)
        or situation.current < situation.scaling.min_replicas
    ):
        return Reason.BELOW_MINIMUM
    strongest = max(proposals, key=lambda proposal: proposal.replicas)
    return Reason.QUEUE_WAIT_HIGH if strongest.signal == "queueWait" else Reason.LOAD_ROSE


def _reason_for_steady(situation: Situation) -> Reason:
    observed = situation.observed
    if situation.scaling.mode is Mode.PAUSED:
        return Reason.PAUSED
    if observed.live and len(observed.in_phase(PodPhase.MODEL_REFUSED)) == len(observed.live):
        return Reason.MODEL_REFUSED
    if observed.in_phase(PodPhase.UNSCHEDULABLE):
        return Reason.INSUFFICIENT_GPU
    if not observed.ready:
        return Reason.NONE_READY
    return Reason.METRICS_MISSING if situation.signals.all_missing else Reason.STEADY


def _message(situation: Situation, reason: Reason, replicas: int, proposals: list[Proposal]) -> str:
    current = situation.current
    change = f"{current} -> {replicas} replicas" if replicas != current else f"{current} replicas"
    told = _PHASE_TELLS.get(reason)
    why = situation.observed.in_phase(told)[0].message if told else _facts(situation, proposals)[reason]
    return f"{change}: {why}"


_PHASE_TELLS = {Reason.INSUFFICIENT_GPU: PodPhase.UNSCHEDULABLE, Reason.MODEL_REFUSED: PodPhase.MODEL_REFUSED}


def _facts(situation: Situation, proposals: list[Proposal]) -> dict[Reason, str]:
    """One sentence a reason; what the signals said stands where they were asked."""
    scaling, signals, whys = situation.scaling, situation.signals, _whys(proposals)
    return {
        Reason.STEADY: whys,
        Reason.LOAD_ROSE: whys,
        Reason.QUEUE_WAIT_HIGH: whys,
        Reason.LOAD_FELL: whys,
        Reason.PAUSED: "spec.autoscaling.mode is Paused",
        Reason.BELOW_MINIMUM: f"minReplicas is {scaling.min_replicas}",
        Reason.ABOVE_MAXIMUM: f"maxReplicas is {scaling.max_replicas}",
        Reason.METRICS_MISSING: f"{signals.answered} of {signals.asked} ready pods answered, and unknown is not zero",
        Reason.NONE_READY: "no pod is ready yet",
        Reason.HOLDING_FOR_WINDOW: f"more were needed within the last {scaling.scale_down_window:g} s; {whys}",
        Reason.HOLDING_TARGET: f"{signals.running} running and {signals.waiting} waiting need them; {whys}",
        Reason.AT_MAXIMUM: f"maxReplicas is {scaling.max_replicas}, more would be used; {whys}",
    }


def _whys(proposals: list[Proposal]) -> str:
    return "; ".join(proposal.why for proposal in sorted(proposals, key=lambda proposal: -proposal.replicas))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
