"""A recorded decision, decided again by the same function; and what it would decide later, if nothing changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace_operator.decide import record
from headrace_operator.decide.history import WINDOW
from headrace_operator.decide.replicas import SETTLE, Decision, decide
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.supply import drain_time

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    decision: Decision  # from the recorded inputs
    differences: tuple[str, ...]  # where the record says something else; none = it says the same


@dataclass(frozen=True, slots=True)
class NextChange:
    """What follows at the earliest. A recommendation between the window's peak and now may hold it longer."""

    after: float  # seconds from the recorded decision
    decision: Decision


def replay(recorded: Json) -> Replay:
    """`recorded`: a status' lastDecision or lastChange. Raises InvalidRecord."""
    decision = decide(record.situation(recorded.get("inputs", {})))
    told = {
        "from": decision.current,
        "to": decision.replicas,
        "reason": str(decision.reason),
        "proposals": [(str(proposal.signal), proposal.replicas) for proposal in decision.proposals],
        "clamps": [(str(clamp.reason), clamp.before, clamp.after) for clamp in decision.clamps],
    }
    known = {
        "from": recorded.get("from"),
        "to": recorded.get("to"),
        "reason": recorded.get("reason"),
        "proposals": [(entry.get("signal"), entry.get("replicas")) for entry in recorded.get("proposals", ())],
        "clamps": [(entry.get("reason"), entry.get("from"), entry.get("to")) for entry in recorded.get("clamps", ())],
    }
    differences = [
        f"{name}: recorded {known[name]}, computed {told[name]}" for name in told if known[name] != told[name]
    ]
    return Replay(decision, tuple(differences))


def next_change(decision: Decision) -> NextChange | None:
    """The first other number if load and pods stay as they are. None while pods still follow this decision."""
    situation = decision.situation
    if decision.replicas != decision.current or situation.supply.live != decision.replicas or situation.supply.starting:
        return None
    for after in _turns(situation):
        later = decide(_later(decision, after))
        if later.replicas != decision.replicas:
            return NextChange(after, later)
    return None


def _turns(situation: Situation) -> list[float]:
    """Seconds from now at which the passing of time alone can change a decision."""
    policy, lowered = situation.policy, situation.lowered_ago
    settled = (SETTLE, drain_time(situation))
    turns = [
        policy.scale_down_window - situation.peak_ago,
        min(WINDOW, policy.scale_down_window) - (WINDOW if lowered is None else lowered),
        policy.metrics_hold - situation.silent_for,
        *(seconds - situation.signals.ready_unchanged for seconds in settled),
    ]
    return sorted(seconds + 1.0 for seconds in turns if seconds >= 0)


def _later(decision: Decision, after: float) -> Situation:
    situation = decision.situation
    signals, lowered = situation.signals, situation.lowered_ago
    is_held = situation.peak_ago + after < situation.policy.scale_down_window
    return replace(
        situation,
        signals=replace(signals, ready_unchanged=signals.ready_unchanged + after),
        peak=situation.peak if is_held else decision.recommended,
        peak_ago=situation.peak_ago + after if is_held else 0.0,
        lowered_ago=None if lowered is None else lowered + after,
        silent_for=situation.silent_for + after if signals.asked and not signals.answered else 0.0,
    )
