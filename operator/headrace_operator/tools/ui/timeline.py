"""What happened to one InferenceDeployment, newest first: its scalings and its Kubernetes events, each told once.

Kubernetes forgets events after an hour; the decisions that changed the number stay in the status, the last ten of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace_operator.decide.conditions import epoch

SHOWN = 100  # entries of one object
SAME = 5.0  # seconds between a decision and the event that tells of it
Json = dict[str, Any]
Body = Mapping[str, Any]


def timeline(body: Body, events: Sequence[Body]) -> list[Json]:
    """`events`: those about this object. Times in epoch seconds."""
    scalings = [_scaling(entry) for entry in body.get("status", {}).get("decisions", [])]
    others = [told for told in map(_event, events) if not _is_told(told, scalings)]
    return sorted([*scalings, *others], key=lambda entry: entry["at"], reverse=True)[:SHOWN]


def _scaling(entry: Body) -> Json:
    return {
        "kind": "scaling",
        "at": epoch(entry["at"]),
        "from": entry["from"],
        "to": entry["to"],
        "reason": entry["reason"],
        "message": entry["message"],
    }


def _event(event: Body) -> Json:
    return {
        "kind": "warning" if event.get("type") == "Warning" else "event",
        "at": _last(event),
        "count": event.get("count") or 1,
        "reason": event.get("reason") or "",
        "message": event.get("message") or "",
    }


def _last(event: Body) -> float:
    """When it happened last. Older and newer recorders of Kubernetes fill in different fields."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return epoch(next(filter(None, times), None) or event["metadata"]["creationTimestamp"])


def _is_told(event: Json, scalings: Sequence[Json]) -> bool:
    return any(
        event["reason"] == told["reason"] and event["message"] == told["message"] and event["at"] - told["at"] < SAME
        for told in scalings
    )
