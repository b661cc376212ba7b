"""The status of the custom resource: what is, what was decided last, and the ten decisions that changed something."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_operator.decide import conditions, manifests
from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import Decision
from headrace_operator.decide.values import Observed
from headrace_operator.service import InferenceDeployment

RING = 10


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at one InferenceDeployment, with everything that came of it."""

    deployment: InferenceDeployment
    image: str
    observed: Observed
    decision: Decision
    history: History
    now: float


def status(tick: Tick, before: Mapping[str, Any]) -> dict[str, Any]:
    """The new status. `before` is what the object says now; times in it move only when what they time has changed."""
    observed, decision, deployment = tick.observed, tick.decision, tick.deployment
    last = _kept_time(_decision(decision, tick.now), before.get("lastDecision", {}))
    signals = decision.signals
    return {
        "observedGeneration": deployment.generation,
        "replicas": len(observed.live),
        "readyReplicas": len(observed.ready),
        "desiredReplicas": decision.replicas,
        "selector": manifests.selector(deployment),
        "revision": manifests.revision(deployment, tick.image),
        "queueWaitP95": _milliseconds(signals.queue_wait_p95),
        "tokensPerSecond": _rounded(signals.throughput),
        "capacity": tick.history.remembered(),
        "startup": _startup(tick.history),
        "conditions": conditions.as_status(
            conditions.conditions(deployment, observed, decision),
            before.get("conditions", []),
            deployment.generation,
            tick.now,
        ),
        "lastDecision": last,
        "decisions": _ring(decision, last, before.get("decisions", [])),
    }


def _decision(decision: Decision, now: float) -> dict[str, Any]:
    signals = decision.signals
    return {
        "at": timestamp(now),
        "from": decision.current,
        "to": decision.replicas,
        "reason": str(decision.reason),
        "message": decision.message,
        "inputs": {
            "readyPods": signals.asked,
            "answeredPods": signals.answered,
            "demandTokensPerSecond": _rounded(signals.demand),
            "backlogTokens": _rounded(signals.backlog),
            "capacityTokensPerSecond": _rounded(signals.capacity),
            "waiting": signals.waiting,
            "running": signals.running,
            "queueWaitP95": _milliseconds(signals.queue_wait_p95),
        },
        "proposals": [{"signal": p.signal, "replicas": p.replicas, "why": p.why} for p in decision.proposals],
        "clamps": [{"reason": str(c.reason), "from": c.before, "to": c.after} for c in decision.clamps],
    }


def _kept_time(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The same decision keeps the time at which it was first taken."""
    if all(now[key] == before.get(key) for key in ("from", "to", "reason")):
        return {**now, "at": before["at"]}
    return now


def _ring(decision: Decision, last: dict[str, Any], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if decision.replicas == decision.current:
        return before
    entry = {key: last[key] for key in ("at", "from", "to", "reason", "message")}
    same = before and all(before[-1].get(key) == entry[key] for key in ("from", "to", "reason", "at"))
    return before if same else [*before, entry][-RING:]


def _startup(history: History) -> dict[str, str]:
    quantiles = {"p50Seconds": history.startup_quantile(0.5), "p95Seconds": history.startup_quantile(0.95)}
    return {name: f"{value:.1f}" for name, value in quantiles.items() if value is not None}


def _milliseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{float(f'{seconds * 1000:.2g}'):.0f}ms"


def _rounded(value: float | None) -> str:
    """Two digits: enough for a person, and steady enough not to rewrite the object at every tick."""
    return "unknown" if value is None else f"{float(f'{value:.2g}'):.0f}"
