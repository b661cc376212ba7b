"""What time alone will change about a decision, and when: status and `headrace explain` tell it."""

from dataclasses import dataclass, replace

from headrace_operator.decide.history import WINDOW
from headrace_operator.decide.replicas import SETTLE, Decision, decide
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.supply import drain_time


@dataclass(frozen=True, slots=True)
class NextChange:
    """What follows at the earliest. A recommendation between the window's peak and now may hold it longer."""

    after: float  # seconds from the recorded decision
    decision: Decision


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
        -1.0 if policy.idle_timeout is None or not situation.idle_for else policy.idle_timeout - situation.idle_for,
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
        idle_for=situation.idle_for + after if situation.idle_for else 0.0,
        silent_for=situation.silent_for + after if signals.asked and not signals.answered else 0.0,
    )
