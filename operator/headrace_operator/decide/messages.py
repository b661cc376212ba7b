"""What a decision says: one sentence a reason, with the numbers that a reader needs to check it.

Written when somebody reads it, which of most decisions nobody does: all that it tells stands in the situation.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from headrace_operator.decide.reasons import Reason, Signal
from headrace_operator.decide.situation import Situation, Stuck
from headrace_operator.decide.whys import why


class Proposed(Protocol):
    @property
    def signal(self) -> Signal: ...
    @property
    def replicas(self) -> int: ...


def message(situation: Situation, reason: Reason, replicas: int, proposals: Sequence[Proposed]) -> str:
    current = situation.current
    change = f"{current} -> {replicas} replicas" if replicas != current else f"{current} replicas"
    return f"{change}: {_SENTENCES[reason](situation, _strongest_first(situation, proposals))}"


def _strongest_first(situation: Situation, proposals: Sequence[Proposed]) -> str:
    ordered = sorted(proposals, key=lambda proposal: -proposal.replicas)
    return "; ".join(why(situation, proposal.signal, proposal.replicas) for proposal in ordered)


def _because(situation: Situation, because: str) -> str:
    del situation
    return because or "no rate is known before a second sample"


def _in_their_words(of: Callable[[Situation], Stuck]) -> "Sentence":
    def sentence(situation: Situation, because: str) -> str:
        stuck = of(situation)
        told = f"{stuck.pods} of {situation.supply.live} pods: {stuck.message}"
        return f"{told}; {because}" if because else told

    return sentence


def _metrics_missing(situation: Situation, because: str) -> str:
    signals = situation.signals
    told = f"{signals.answered} of {signals.asked} ready pods answered, and unknown is not zero"
    return f"{told}; {because}" if because else told


def _holding_target(situation: Situation, because: str) -> str:
    signals = situation.signals
    return f"{signals.running} running and {signals.waiting} waiting need them; {because}"


def _holding_for_window(situation: Situation, because: str) -> str:
    return f"more were needed within the last {situation.policy.scale_down_window:g} s; {because}"


def _none_ready(situation: Situation) -> str:
    ready = situation.supply.ready
    return f"{ready} pods are ready since a moment, and were not asked yet" if ready else "no pod is ready yet"


def _over_budget(situation: Situation, because: str) -> str:
    told = f"the GPU budget of the namespace allows {situation.budget}"
    return f"{told}; {because}" if because else told


def _minimum(situation: Situation) -> str:
    least = situation.policy.min_replicas
    first = "" if least else ", and no replica has been ready yet: until one was, one is kept"
    return f"minReplicas is {least}{_by_schedule(situation)}{first}"


def _maximum(situation: Situation) -> str:
    return f"maxReplicas is {situation.policy.max_replicas}{_by_schedule(situation)}"


def _by_schedule(situation: Situation) -> str:
    on = situation.policy.schedules
    return f" by schedule {', '.join(on)}" if on else ""


Sentence = Callable[[Situation, str], str]
_SENTENCES: dict[Reason, Sentence] = {
    Reason.STEADY: _because,
    Reason.LOAD_ROSE: _because,
    Reason.QUEUE_WAIT_HIGH: _because,
    Reason.LOAD_FORECAST: _because,
    Reason.LOAD_FELL: _because,
    Reason.SCALE_FROM_ZERO: _because,
    Reason.IDLE_TO_ZERO: _because,
    Reason.AT_ZERO: lambda *_: "nobody asks; the routers hold the next request until a replica is ready",
    Reason.HOLDING_FOR_WINDOW: _holding_for_window,
    Reason.HOLDING_TARGET: _holding_target,
    Reason.BELOW_MINIMUM: lambda situation, _: _minimum(situation),
    Reason.AT_MAXIMUM: lambda situation, because: f"{_maximum(situation)}, more would be used; {because}",
    Reason.ABOVE_MAXIMUM: lambda situation, _: _maximum(situation),
    Reason.OVER_BUDGET: _over_budget,
    Reason.METRICS_MISSING: _metrics_missing,
    Reason.METRICS_FALLBACK: _because,
    Reason.INSUFFICIENT_GPU: _in_their_words(lambda situation: situation.supply.without_gpu),
    Reason.MODEL_REFUSED: _in_their_words(lambda situation: situation.supply.refused),
    Reason.EXTERNAL: lambda _, because: because or "spec.replicas is not set",
    Reason.PAUSED: lambda *_: "spec.autoscaling.mode is Paused",
    Reason.NONE_READY: lambda situation, _: _none_ready(situation),
}
