"""Why a signal asks for so many replicas: the numbers behind it, for a person who reads a decision."""

from collections.abc import Callable

from headrace_operator.decide.numbers import milliseconds
from headrace_operator.decide.reasons import Signal
from headrace_operator.decide.situation import Situation
from headrace_operator.decide.supply import replicas_to_carry


def why(situation: Situation, signal: Signal, replicas: int) -> str:
    return _SENTENCES[signal](situation, replicas)


def _work(situation: Situation, replicas: int) -> str:
    signals, catching_up = situation.signals, replicas - replicas_to_carry(situation.load or 0.0)
    told = (
        f"{signals.demand:.0f} tok/s arrive and {signals.backlog:.0f} tokens wait, "
        f"a replica carries {signals.capacity:.0f} tok/s at {situation.policy.utilization:.0%}"
    )
    return f"{told}, {catching_up} more until the backlog is gone" if catching_up else told


def _slots(situation: Situation) -> str:
    return f"{situation.signals.in_flight} requests in flight, no replica was saturated yet to learn what it carries"


def _queue_wait(situation: Situation) -> str:
    wait, target = milliseconds(situation.signals.typical_wait or 0.0), situation.policy.queue_wait_target
    return f"p95 wait {wait} is above its target {milliseconds(target)} on most of {situation.supply.ready} ready"


def _bursts(situation: Situation) -> str:
    return f"bursts of the last half hour need {situation.signals.burst:.0f} tok/s carried"


def _held(situation: Situation) -> str:
    signals = situation.signals
    return f"routers hold {signals.held} requests, the oldest for {signals.oldest_held:.1f} s"


def _idle(situation: Situation) -> str:
    return f"no request for {situation.idle_for:.0f} s, idleTimeout is {situation.policy.idle_timeout:g} s"


def _forecast(situation: Situation) -> str:
    arrivals, forecast = situation.signals.arrivals, situation.signals.forecast
    return f"{forecast:g} requests/s are expected {situation.start_time:.0f} s from now, {arrivals:g} arrive"


def _fallback(situation: Situation, replicas: int) -> str:
    silent = f"no pod has answered for {situation.silent_for:.0f} s, longer than metricsHold"
    return f"{silent}, and metricsFallback is {replicas}"


_SENTENCES: dict[Signal, Callable[[Situation, int], str]] = {
    Signal.WORK: _work,
    Signal.SLOTS: lambda situation, _: _slots(situation),
    Signal.QUEUE_WAIT: lambda situation, _: _queue_wait(situation),
    Signal.BURSTS: lambda situation, _: _bursts(situation),
    Signal.HELD: lambda situation, _: _held(situation),
    Signal.IDLE: lambda situation, _: _idle(situation),
    Signal.FORECAST: lambda situation, _: _forecast(situation),
    Signal.FALLBACK: _fallback,
    Signal.EXTERNAL: lambda _, replicas: f"spec.replicas is {replicas}",
}
