"""A decision's inputs as status keeps them, and back: `decide(situation(inputs(s)))` is `decide(s)`.

Plain JSON that a person reads: grouped, units in the names, measured numbers as decimal text. Status is written as a
merge patch, in which None removes a key: what is not known is absent.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from headrace_operator.decide.numbers import text
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import Policy, Situation, Stuck, Supply
from headrace_operator.errors import InvalidRecord
from headrace_operator.service import Mode

Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]  # key in status: field of the value, and what reads it


def _maybe(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _or_zero(value: str | None) -> float:
    """Of a record from before there was such a number, what made no difference."""
    return float(value or 0.0)


def _or_none(value: int | None) -> int:
    """Likewise, of a count."""
    return value or 0


def _words(value: str | None) -> str:
    return value or ""


_POLICY: Fields = {
    "mode": ("mode", Mode),
    "minReplicas": ("min_replicas", int),
    "maxReplicas": ("max_replicas", int),
    "queueWaitTargetSeconds": ("queue_wait_target", float),
    "utilization": ("utilization", float),
    "scaleDownWindowSeconds": ("scale_down_window", float),
    "metricsHoldSeconds": ("metrics_hold", float),
    "metricsFallback": ("metrics_fallback", _maybe(int)),
    "specReplicas": ("replicas", _maybe(int)),
    "schedules": ("schedules", tuple),
    "forecast": ("forecast", bool),
    "idleTimeoutSeconds": ("idle_timeout", _maybe(float)),
}
_LOAD: Fields = {
    "askedPods": ("asked", int),
    "answeredPods": ("answered", int),
    "arrivalsPerSecond": ("arrivals", _maybe(float)),
    "tokensPerRequest": ("work_per_request", _maybe(float)),
    "tokensPerSecond": ("throughput", _maybe(float)),
    "capacityTokensPerSecond": ("capacity", _maybe(float)),
    "waiting": ("waiting", int),
    "running": ("running", int),
    "maxRunning": ("max_running", int),
    "queueWaitP95Seconds": ("queue_wait_p95", _maybe(float)),
    "typicalQueueWaitSeconds": ("typical_wait", _maybe(float)),
    "queueDrainsInSeconds": ("queue_drains_in", float),
    "readyUnchangedSeconds": ("ready_unchanged", float),
    "heldRequests": ("held", _or_none),
    "oldestHeldSeconds": ("oldest_held", _or_zero),
    "kvCachesHeld": ("kv_held", _or_zero),
    "burstTokensPerSecond": ("burst", _maybe(float)),
    "forecastArrivalsPerSecond": ("forecast", _maybe(float)),
}
_SUPPLY: Fields = {"ready": ("ready", int), "startingSeconds": ("starting", tuple)}
_STUCK: Fields = {"pods": ("pods", int), "message": ("message", _words)}
_MEMORY: Fields = {
    "current": ("current", int),
    "startTimeSeconds": ("start_time", float),
    "peakInWindow": ("peak", _maybe(int)),
    "peakSecondsAgo": ("peak_ago", float),
    "loweredSecondsAgo": ("lowered_ago", _maybe(float)),
    "silentSeconds": ("silent_for", float),
    "budgetReplicas": ("budget", _maybe(int)),
    "idleSeconds": ("idle_for", _or_zero),
    "hasBeenReady": ("has_served", bool),
    "lastingReplicas": ("lasting", _maybe(int)),
}


def inputs(situation: Situation) -> dict[str, Any]:
    """What `situation` reads; every key is there, with None where nothing is known."""
    supply = situation.supply
    return {
        "policy": policy(situation),
        "load": _written(situation.signals, _LOAD),
        "supply": {
            **_written(supply, _SUPPLY),
            "withoutGPU": _written(supply.without_gpu, _STUCK),
            "modelRefused": _written(supply.refused, _STUCK),
        },
        "memory": _written(situation, _MEMORY),
    }


def policy(situation: Situation) -> dict[str, Any]:
    """The part of `inputs` that the manifest says."""
    return _written(situation.policy, _POLICY)


def situation(inputs: Mapping[str, Any]) -> Situation:
    """Of a status' lastDecision.inputs. Raises InvalidRecord when another version of the operator wrote it."""
    try:
        supply = inputs["supply"]
        return Situation(
            policy=Policy(**_read(inputs["policy"], _POLICY)),
            signals=Signals(**_read(inputs["load"], _LOAD)),
            supply=Supply(
                **_read(supply, _SUPPLY),
                without_gpu=Stuck(**_read(supply["withoutGPU"], _STUCK)),
                refused=Stuck(**_read(supply["modelRefused"], _STUCK)),
            ),
            **_read(inputs["memory"], _MEMORY),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRecord(f"inputs are not as this version of the operator records them: {error!r}") from error


def _written(value: object, fields: Fields) -> dict[str, Any]:
    return {key: _plain(getattr(value, name)) for key, (name, _) in fields.items()}


def _plain(value: object) -> object:
    if isinstance(value, float):
        return text(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value


def _read(found: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    return {name: read(found.get(key)) for key, (name, read) in fields.items()}
