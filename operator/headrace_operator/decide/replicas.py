"""The decision: how many replicas, and why. Pure: everything it knows is an argument, everything it says is a value.

work       arriving work / (capacity of one replica x utilization), and what the backlog needs beside it
queueWait  ready x wait / target, at most twice, when the p95 wait breaks the target that `work` did not foresee
held       what waits at the routers while no replica answers
idle       nothing, where minReplicas is 0 and nobody has asked for idleTimeout
bursts     what the bursts of the last half hour need, each shorter than a start
forecast   where it is asked for: what arriving work will be when a replica that is ordered now serves
result     = max of all, then the rules of `rules.py` in order; the first ones make the recommendation
             of which the scale-down window takes the maximum
Where a person gave the number (External, Paused, the fallback), only the bounds apply to it.
"""

import math
from dataclasses import dataclass

from headrace_operator.decide import messages, rules
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason, Signal
from headrace_operator.decide.rules import MOST_SLOTS, Clamp
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.supply import HAIR, drain_time, replicas_for_held, replicas_to_carry, replicas_to_catch_up
from headrace_operator.decide.whys import why
from headrace_operator.service import Mode

MOST_AT_ONCE = 2.0  # the promise proposes at most this multiple of the ready replicas
MOST_AHEAD = 1.5  # times what arriving work needs: a trend that goes on for so long is a guess
MOST_CATCHING_UP = 1.5  # times what arriving work needs: a backlog passes, a GPU that was bought for it stays a while
BLINK, FEW = 2.0, 3  # times, or more than, what was asked for all the while: more must last to be held
MILD, LITTLE = 2.0, 1.25  # times the target: a longer wait is no chance; times the work's need: what a shorter one adds
ALIKE = 1.25  # times what replicas are kept for: bursts that differ by less are alike
SETTLE = 4.0  # seconds after the ready pods changed before queue waits speak about the new supply


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one signal asks for."""

    signal: Signal
    replicas: int


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    current: int  # replicas decided before this
    # before any rule but the one about silent pods, and without what is kept for bursts: neither that nor what is held
    # for the target is asked for at this moment
    asked: int
    recommended: int  # of all what has lasted or is kept for bursts, within the bounds: the scale-down window holds it
    reason: Reason
    proposals: tuple[Proposal, ...]
    clamps: tuple[Clamp, ...]
    situation: Situation  # everything that it was made of

    @property
    def signals(self) -> Signals:
        return self.situation.signals

    @property
    def message(self) -> str:
        """With the numbers. Put into words when somebody reads it: of most decisions nobody does."""
        return messages.message(self.situation, self.reason, self.replicas, self.proposals)

    def why(self, proposal: Proposal) -> str:
        """The numbers behind one of the proposals."""
        return why(self.situation, proposal.signal, proposal.replicas)


def decide(situation: Situation) -> Decision:
    """The next number of replicas with its reason."""
    given = _given(situation)
    proposals = _measured(situation) if given is None else given
    wanted = max((proposal.replicas for proposal in proposals), default=situation.current)
    recommended, early = rules.apply(rules.RECOMMENDATION if given is None else (), situation, wanted)
    replicas, late = rules.apply(rules.LIMITS if given is None else rules.BOUNDS, situation, recommended)
    clamps = (*early, *late)
    kept = max([one.replicas for one in proposals if one.signal is Signal.BURSTS], default=0)
    return Decision(
        replicas=replicas,
        current=situation.current,
        asked=rules.apply(rules.UNKNOWN if given is None else (), situation, _without_bursts(situation, proposals))[0],
        recommended=rules.apply(rules.BOUNDS, situation, max(kept, _lasting(situation, recommended)))[0],
        reason=_reason(situation, proposals, clamps, replicas),
        proposals=proposals,
        clamps=clamps,
        situation=situation,
    )


def _without_bursts(situation: Situation, proposals: tuple[Proposal, ...]) -> int:
    """What is kept for bursts asks all the time: it must not make the load of one look usual."""
    return max([one.replicas for one in proposals if one.signal is not Signal.BURSTS], default=situation.current)


def _lasting(situation: Situation, replicas: int) -> int:
    """A load that is gone within seconds has ordered what it could need; it does not hold that for a whole window.

    While nobody knows what a replica carries, the next trembling would order it again: then it does.
    """
    least = situation.lasting
    if least is None or situation.signals.capacity is None:
        return replicas
    return replicas if replicas <= max(BLINK * least, least + FEW) else least


def remembered(history: History, decision: Decision, now: float) -> History:
    """The history with this decision. In mode Shadow nothing was done, so nothing was lowered or raised."""
    policy = decision.situation.policy
    return history.decided(decision, policy.scale_down_window, now, is_done=policy.mode is not Mode.SHADOW)


def _given(situation: Situation) -> tuple[Proposal, ...] | None:
    """What a person set instead of what is measured; an empty tuple keeps the number as it is."""
    policy = situation.policy
    if policy.mode is Mode.PAUSED:
        return ()
    if policy.mode is Mode.EXTERNAL:
        told = policy.replicas
        return () if told is None else (Proposal(Signal.EXTERNAL, told),)
    if policy.metrics_fallback is not None and situation.silent_for > policy.metrics_hold:
        return (Proposal(Signal.FALLBACK, policy.metrics_fallback),)
    return None


def _measured(situation: Situation) -> tuple[Proposal, ...]:
    if situation.is_idle:
        return (Proposal(Signal.IDLE, 0),)
    if situation.signals.all_missing:  # the routers alone know what is asked for
        return (Proposal(Signal.HELD, replicas_for_held(situation)),) if situation.signals.held else ()
    return tuple([proposal for signal in _SIGNALS if (proposal := signal(situation))])


def _by_work(situation: Situation) -> Proposal | None:
    load = situation.load
    if load is None:
        return None
    needed = replicas_to_carry(load)
    lasts = _lasting(situation, needed) == needed
    catching_up = min(replicas_to_catch_up(situation), math.floor(load * MOST_CATCHING_UP)) if lasts else 0
    if situation.burst_load is not None and _is_known_burst(situation):
        needed = min(needed, replicas_to_carry(situation.burst_load))
    return Proposal(Signal.WORK, max(needed, catching_up))


def _is_known_burst(situation: Situation) -> bool:
    """No more than what replicas are kept for, and not yet longer: those that are ordered for it come too late."""
    load, bursts = situation.load, situation.burst_load
    if load is None or bursts is None or load * situation.policy.utilization > bursts * ALIKE:
        return False
    needed = replicas_to_carry(load)
    return _lasting(situation, needed) < needed


def _by_slots(situation: Situation) -> Proposal | None:
    """Until a replica was saturated once, nothing says how much it carries: keep what holds the requests in flight."""
    signals = situation.signals
    if signals.capacity or not signals.max_running:
        return None
    holds = max(1, math.ceil(signals.in_flight / (signals.max_running * MOST_SLOTS) - HAIR))
    return Proposal(Signal.SLOTS, min(holds, situation.current))


def _by_queue_wait(situation: Situation) -> Proposal | None:
    """Silent while the queue will be gone before another replica could start: a backlog is not a lack of supply."""
    signals, target = situation.signals, situation.policy.queue_wait_target
    wait, drain = signals.typical_wait, drain_time(situation)
    if wait is None or wait <= target or signals.queue_drains_in <= drain or _is_known_burst(situation):
        return None
    ready = situation.supply.ready
    is_enough_by_work = signals.capacity and (signals.demand or math.inf) < ready * signals.capacity
    if signals.ready_unchanged < (drain if is_enough_by_work else SETTLE):
        return None
    replicas = math.ceil(ready * min(MOST_AT_ONCE, wait / target) - HAIR)
    is_chance = wait <= target * MILD or signals.waiting <= ready  # twice as many replicas would relieve a few requests
    if is_enough_by_work and is_chance:
        replicas = min(replicas, _a_little_more(situation))
    return Proposal(Signal.QUEUE_WAIT, replicas)


def _a_little_more(situation: Situation) -> int:
    """What was ordered for a wait that may be chance has to show what it does before more is ordered for the next."""
    supply = situation.supply
    if supply.starting:
        return supply.ready + len(supply.starting)
    return max(supply.ready + 1, math.floor((situation.load or 0.0) * LITTLE))


def _by_bursts(situation: Situation) -> Proposal | None:
    load = situation.burst_load
    return None if load is None else Proposal(Signal.BURSTS, replicas_to_carry(load))


def _by_forecast(situation: Situation) -> Proposal | None:
    """Only ever for more than the work that arrives: nobody is taken away for what may come."""
    load, arrivals, forecast = situation.load, situation.signals.arrivals, situation.signals.forecast
    if not situation.policy.forecast or not load or not arrivals or forecast is None or forecast <= arrivals:
        return None
    return Proposal(Signal.FORECAST, math.ceil(load * min(MOST_AHEAD, forecast / arrivals) - HAIR))


_SIGNALS = (_by_work, _by_slots, _by_queue_wait, _by_bursts, _by_forecast)


def _reason(situation: Situation, proposals: tuple[Proposal, ...], clamps: tuple[Clamp, ...], replicas: int) -> Reason:
    current = situation.current
    strongest = max(proposals, key=lambda proposal: proposal.replicas, default=None)
    if replicas > current:
        if strongest is None or strongest.replicas <= current:
            return [clamp.reason for clamp in clamps if clamp.after > clamp.before][-1]
        return _BY_SIGNAL.get(strongest.signal, Reason.LOAD_ROSE)
    given = _given_reason(situation, strongest)
    if replicas < current:
        return _lowered_by(situation, clamps) or given or (Reason.LOAD_FELL if replicas else Reason.IDLE_TO_ZERO)
    if not replicas:
        return given or Reason.AT_ZERO
    problem = None if given else rules.trouble(situation)
    return problem or _held_by(situation, clamps) or given or Reason.STEADY


_BY_SIGNAL = {
    Signal.QUEUE_WAIT: Reason.QUEUE_WAIT_HIGH,
    Signal.FORECAST: Reason.LOAD_FORECAST,
    Signal.HELD: Reason.SCALE_FROM_ZERO,
    Signal.EXTERNAL: Reason.EXTERNAL,
    Signal.FALLBACK: Reason.METRICS_FALLBACK,
}
_BY_MODE = {Mode.PAUSED: Reason.PAUSED, Mode.EXTERNAL: Reason.EXTERNAL}


def _given_reason(situation: Situation, strongest: Proposal | None) -> Reason | None:
    is_fallback = strongest is not None and strongest.signal is Signal.FALLBACK
    return Reason.METRICS_FALLBACK if is_fallback else _BY_MODE.get(situation.policy.mode)


def _lowered_by(situation: Situation, clamps: tuple[Clamp, ...]) -> Reason | None:
    """The bound that does not allow even what there is."""
    if clamps and clamps[-1].reason is Reason.OVER_BUDGET:
        return Reason.OVER_BUDGET
    return Reason.ABOVE_MAXIMUM if situation.current > situation.policy.max_replicas else None


def _held_by(situation: Situation, clamps: tuple[Clamp, ...]) -> Reason | None:
    """The last rule that held the number. Being at the minimum is no news."""
    if not clamps:
        return None
    quiet = {Reason.BELOW_MINIMUM}
    if situation.current <= situation.least:
        quiet |= {Reason.HOLDING_FOR_WINDOW, Reason.HOLDING_TARGET}
    held = [clamp.reason for clamp in clamps if clamp.reason not in quiet]
    return held[-1] if held else None
