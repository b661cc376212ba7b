"""The status of the custom resource: what is, what was decided last, and the ten decisions that changed something.

Written only when it says something new, or noise would write the object at every tick. A measured number stays until it
has moved by NOTABLE. A decision stays, whole, as it was at one tick: its inputs, proposals, clamps and result always
belong together. While the same is decided again it is told anew every RETOLD seconds: `at` is when these inputs were
measured, `since` when this was decided first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from headrace_operator.decide import conditions, conflicts, manifests, phases, record, revisions, routing
from headrace_operator.decide.conditions import Condition, timestamp
from headrace_operator.decide.conflicts import Claims
from headrace_operator.decide.foresight import next_change
from headrace_operator.decide.health import health
from headrace_operator.decide.history import History
from headrace_operator.decide.progress import progressing
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.rollout_record import as_status
from headrace_operator.decide.rollouts import Progress
from headrace_operator.decide.startup import Ledger
from headrace_operator.decide.values import Observed
from headrace_operator.service import InferenceDeployment

RING = 10
RETOLD = 300.0  # seconds
NOTABLE = 0.2  # of the number that stands in status
NOTABLE_LEARNED = 0.1  # of what a restarted operator goes on with
MEASURED = ("queueWaitP95", "tokensPerSecond", "capacity")  # what moves with the load, all day long
MEASURED_PAUSE = 60.0  # seconds between two writes for those alone: 500 objects made 50 a second of them
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at one InferenceDeployment, with everything that came of it."""

    deployment: InferenceDeployment
    image: str
    observed: Observed
    decision: Decision
    history: History
    now: float
    claims: Claims = field(default_factory=Claims)
    progress: Progress | None = None  # of the rollout; None = nothing has been seen of it
    ledger: Ledger = field(default_factory=Ledger)  # of starts


def status(tick: Tick, before: Mapping[str, Any]) -> dict[str, Any]:
    """The new status. `before` is what the object says now."""
    observed, decision, deployment = tick.observed, tick.decision, tick.deployment
    last = _last_decision(decision, before.get("lastDecision", {}), tick.now)
    # In mode Shadow the same change is decided at every tick; it is told once.
    is_change = decision.replicas != decision.current and _is_new(decision, before.get("lastDecision", {}))
    signals = decision.signals
    rollout = _rollout(tick, before.get("rollout", {}))
    return {
        "observedGeneration": deployment.generation,
        "replicas": len(observed.live),
        "readyReplicas": len(observed.ready),
        "warmReplicas": sum(pod.is_warm for pod in observed.pods),
        "podPhases": phases.as_status(observed),
        "desiredReplicas": decision.replicas,
        "selector": manifests.selector(deployment),
        "revision": revisions.asked(deployment),
        "queueWaitP95": _steady(before.get("queueWaitP95"), milliseconds(signals.queue_wait_p95)),
        "tokensPerSecond": _steady(before.get("tokensPerSecond"), rounded(signals.throughput)),
        **_known_or_gone("routers", _routers(tick), before),
        **_known_or_gone("routing", routing.guidance(deployment, observed, tick.progress), before),
        "hasBeenReady": tick.history.has_served,
        "capacity": {
            name: _steady(before.get("capacity", {}).get(name), rounded(value), NOTABLE_LEARNED)
            for name, value in tick.history.remembered().items()
        },
        "startup": {**_startup(tick.history), "phases": tick.ledger.as_status()},
        "conditions": conditions.as_status(
            (
                *conditions.conditions(deployment, observed, decision),
                *health(observed, decision),
                conflicts.condition(deployment.scaling.mode, tick.claims),
                *_progressing(tick, rollout),
                *conditions.routing_ready(deployment, observed),
            ),
            before.get("conditions", []),
            deployment.generation,
            tick.now,
        ),
        "rollout": rollout,
        "lastDecision": last,
        "lastChange": last if is_change else before.get("lastChange", {}),
        "decisions": _ring(last, before.get("decisions", [])) if is_change else before.get("decisions", []),
    }


def _known_or_gone(name: str, value: object, before: Mapping[str, Any]) -> dict[str, Any]:
    """None removes what stands there; where nothing does, it would be written again at every look."""
    return {name: value} if value is not None or name in before else {}


def _routers(tick: Tick) -> int | None:
    return sum(router.is_ready for router in tick.observed.routers) if tick.deployment.routing.holds else None


def is_due(after: Mapping[str, Any], before: Mapping[str, Any], written_at: float, now: float) -> bool:
    """Is `after` worth a write now? A fact never waits; what was only measured anew waits for MEASURED_PAUSE."""
    if after == before:
        return False
    return now - written_at >= MEASURED_PAUSE or _facts(after) != _facts(before)


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """All but the measured numbers, of which only this is a fact: whether they are known."""
    known = {name: told.get(name) in {None, UNKNOWN} for name in ("queueWaitP95", "tokensPerSecond")}
    return {**{name: value for name, value in told.items() if name not in MEASURED}, **known}


def _rollout(tick: Tick, before: Mapping[str, Any]) -> Mapping[str, Any]:
    return as_status(tick.deployment, tick.progress, before) if tick.progress else before


def _progressing(tick: Tick, told: Mapping[str, Any]) -> list[Condition]:
    """With the numbers that the rollout itself tells, which stay for a while: one story, and no write at every tick."""
    return [progressing(tick.observed, replace(tick.progress, message=told["message"]))] if tick.progress else []


def milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{rounded(seconds * 1000)}ms"


def rounded(value: float | None) -> str:
    """Three digits: enough to compute the decision again from what status says."""
    return UNKNOWN if value is None else f"{float(f'{value:.3g}'):.15g}"


def _steady(before: str | None, now: str, notable: float = NOTABLE) -> str:
    """What stood there, while the number is about the same."""
    known, new = _number(before), _number(now)
    if before is None or known is None or new is None:
        return now
    return before if abs(new - known) <= notable * abs(known) else now


def _number(text: str | None) -> float | None:
    return None if text is None or text == UNKNOWN else float(text.removesuffix("ms"))


def _last_decision(decision: Decision, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    if _is_new(decision, before):
        return {**_decision(decision, now), "since": timestamp(now)}
    if now - _epoch(before["at"]) < RETOLD:
        return dict(before)
    return {**_decision(decision, now), "since": before["since"]}


def _is_new(decision: Decision, before: Mapping[str, Any]) -> bool:
    return _gist(before) != _new_gist(decision)


def _gist(told: Mapping[str, Any]) -> list[Any]:
    """What makes a decision in status another one; a record of an older operator is never the same."""
    inputs = told.get("inputs", {})
    load = inputs.get("load", {})
    return [
        told.get("from"), told.get("to"), told.get("reason"), load.get("askedPods"), load.get("answeredPods"),
        _known(inputs.get("policy", {})),
    ]  # fmt: skip


def _new_gist(decision: Decision) -> list[Any]:
    signals = decision.signals
    policy = _known(record.policy(decision.situation))
    return [decision.current, decision.replicas, str(decision.reason), signals.asked, signals.answered, policy]


def _known(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in policy.items() if value is not None}


def _decision(decision: Decision, now: float) -> dict[str, Any]:
    return {
        "at": timestamp(now),
        "from": decision.current,
        "to": decision.replicas,
        "reason": str(decision.reason),
        "message": decision.message,
        "inputs": record.inputs(decision.situation),
        "proposals": [
            {"signal": str(p.signal), "replicas": p.replicas, "why": decision.why(p)} for p in decision.proposals
        ],
        "clamps": [{"reason": str(c.reason), "from": c.before, "to": c.after} for c in decision.clamps],
        "next": _next(decision, now),
    }


def _next(decision: Decision, now: float) -> dict[str, Any] | None:
    """What the passing of time will change, at the earliest; None where it alone changes nothing."""
    found = next_change(decision)
    if found is None:
        return None
    return {"at": timestamp(now + found.after), "to": found.decision.replicas, "reason": str(found.decision.reason)}


def _ring(last: Mapping[str, Any], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*before, {key: last[key] for key in ("at", "from", "to", "reason", "message")}][-RING:]


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _startup(history: History) -> dict[str, str]:
    quantiles = {"p50Seconds": history.startup_quantile(0.5), "p95Seconds": history.startup_quantile(0.95)}
    return {name: f"{value:.1f}" for name, value in quantiles.items() if value is not None}
