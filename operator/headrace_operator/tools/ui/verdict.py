"""How one InferenceDeployment is doing, in one word and one sentence: the worst that its status says."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from headrace_operator.decide.conditions import epoch
from headrace_operator.decide.reasons import Health, Progress

Body = Mapping[str, Any]
SILENCE = 900.0  # seconds: the operator renews a decision every 300 s
NOT_SEEN = (
    "No operator has looked at it yet. Does one run? "
    "`kubectl get pods --all-namespaces --selector app.kubernetes.io/name=headrace-operator`"
)
ON_THE_WAY = {str(reason) for reason in (Health.STARTING, Health.PULLING, Health.LOADING, Health.WARMING_UP)}


class Level(StrEnum):
    """The worst first."""

    TROUBLE = "trouble"  # a promise is broken, and nothing that goes on by itself will mend it
    ATTENTION = "attention"  # it serves, and somebody should know of something
    UNKNOWN = "unknown"  # no operator has looked at it
    STARTING = "starting"  # on its way to what was promised
    GOOD = "good"


class Verdict(NamedTuple):
    level: Level
    text: str


# A condition that does not hold as it should, and what that means. The worst first.
_CONDITIONS = (
    ("ModelValid", "False", Level.TROUBLE),
    ("Degraded", "True", Level.TROUBLE),
    ("Ready", "False", Level.TROUBLE),
    ("RoutingReady", "False", Level.TROUBLE),
    ("GPUCapacity", "False", Level.ATTENTION),
    ("AbleToScale", "False", Level.ATTENTION),
    ("ScalingConflict", "True", Level.ATTENTION),
    ("MetricsAvailable", "False", Level.ATTENTION),
    ("ScalingLimited", "True", Level.ATTENTION),
)


def verdict(status: Body, wait: float | None, target: float | None, now: float) -> Verdict:
    """`wait`, `target`: queue wait p95, seconds. `now`: epoch seconds."""
    if not status.get("lastDecision"):
        return Verdict(Level.UNKNOWN, NOT_SEEN)
    found = [*_conditions(status), *_rollout(status), *_slow(wait, target), *_silent(status, now)]
    return min(found, key=lambda one: list(Level).index(one.level), default=Verdict(Level.GOOD, "All promises hold."))


def is_notable(condition: Body) -> bool:
    """Whether a condition is not as it should be."""
    return any((condition["type"], condition["status"]) == (kind, status) for kind, status, _ in _CONDITIONS) or bool(
        list(_rollout({"conditions": [condition]}))
    )


def _conditions(status: Body) -> Iterator[Verdict]:
    known = {condition["type"]: condition for condition in status.get("conditions", [])}
    for kind, bad, level in _CONDITIONS:
        condition = known.get(kind)
        if condition is not None and condition["status"] == bad:
            starts = kind == "Ready" and condition["reason"] in ON_THE_WAY
            yield Verdict(Level.STARTING if starts else level, f"{condition['reason']}: {condition['message']}")


def _rollout(status: Body) -> Iterator[Verdict]:
    for condition in status.get("conditions", []):
        if condition["type"] == "Progressing" and condition["reason"] != str(Progress.ROLLOUT_COMPLETE):
            yield Verdict(Level.ATTENTION, f"{condition['reason']}: {condition['message']}")


def _slow(wait: float | None, target: float | None) -> Iterator[Verdict]:
    if wait is not None and target is not None and wait > target:
        yield Verdict(Level.ATTENTION, f"Requests wait {wait:.3g} s (p95); the target is {target:g} s.")


def _silent(status: Body, now: float) -> Iterator[Verdict]:
    silence = now - epoch(status["lastDecision"]["at"])
    if silence > SILENCE:
        text = f"The operator has said nothing for {silence / 60:.0f} minutes. Is it running?"
        yield Verdict(Level.ATTENTION, text)
