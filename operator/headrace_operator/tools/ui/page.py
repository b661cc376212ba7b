"""From what the API server holds to what the page shows, as plain JSON: seconds, tokens/s; None = not known.

Everything here was written by others, names and messages alike. It leaves as JSON, and the page sets it as text only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace_operator.decide.conditions import epoch
from headrace_operator.observe.pods import Around, state
from headrace_operator.tools.status import row as status_row
from headrace_operator.tools.ui.readings import number, seconds
from headrace_operator.tools.ui.timeline import timeline
from headrace_operator.tools.ui.values import Look, Point
from headrace_operator.tools.ui.verdict import Level, is_notable, verdict

Body = Mapping[str, Any]
Json = dict[str, Any]
LATEST = 60  # points of a small line in the overview: ten minutes
SHORTEST_GAP = 20.0  # seconds without a point after which a line is broken
THIN = 2  # of so many points, the overview has one: hundreds of deployments are sent at every look


def overview(look: Look) -> Json:
    """Every deployment in one row, the worst first."""
    rows = [_readable(deployment, body, look) for body in look.objects]
    rows.sort(key=lambda row: (list(Level).index(row["level"]), row["namespace"], row["name"]))
    return {**_about(look), "summary": _summary(rows), "deployments": rows}


def detail(look: Look, namespace: str, name: str) -> Json | None:
    """One deployment whole; None when there is none of that name."""
    for body in look.objects:
        if (body["metadata"]["namespace"], body["metadata"]["name"]) == (namespace, name):
            return {**_about(look), "deployment": _readable(_whole, body, look)}
    return None


def _readable(told: Callable[[Body, Look], Json], body: Body, look: Look) -> Json:
    """What `told` makes of it; of a status that somebody else wrote, only that: it must not hide the others."""
    try:
        return told(body, look)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        bare = told({"metadata": body["metadata"], "spec": {}}, replace(look, events={}))
        text = (
            f"This version of headrace cannot read its status: {error!r}. `kubectl get infdep {bare['name']} -o yaml`"
        )
        return {**bare, "verdict": text}


def deployment(body: Body, look: Look) -> Json:
    """One row of the overview."""
    row, status, spec = status_row(dict(body)), body.get("status", {}), body["spec"]
    targets = spec.get("autoscaling", {}).get("targets", {})
    wait, target = seconds(row.queue_wait_p95), seconds(targets.get("queueWaitP95"))
    judged = verdict(status, wait, target, look.at)
    last, change = status.get("lastDecision", {}), status.get("lastChange", {})
    return {
        "namespace": row.namespace,
        "name": row.name,
        "model": spec.get("model", {}).get("source"),
        "mode": row.mode,
        "level": str(judged.level),
        "verdict": judged.text,
        "minReplicas": row.min_replicas,
        "maxReplicas": row.max_replicas,
        "ready": row.ready,
        "desired": row.desired,
        "warm": row.warm,
        "phases": status.get("podPhases", []),
        "queueWait": wait,
        "queueWaitTarget": target,
        "tokensPerSecond": number(row.tokens_per_second),
        "reason": last.get("reason"),
        "message": last.get("message"),
        "decidedAt": _epoch(last.get("at")),
        "changedAt": _epoch(change.get("at")),
        "change": {"from": change["from"], "to": change["to"], "reason": change["reason"]} if change else None,
        "history": [entry[:3] for entry in _history(look, body)[::-THIN][:LATEST]][::-1],
    }


def _whole(body: Body, look: Look) -> Json:
    status = body.get("status", {})
    last = status.get("lastDecision", {})
    following = last.get("next")
    return {
        **deployment(body, look),
        "history": _history(look, body),
        "timeline": timeline(body, look.events_of(body)),
        "pods": [_pod(pod) for pod in look.pods_of(body)],
        "conditions": [_condition(condition) for condition in status.get("conditions", [])],
        "decision": {
            "from": last.get("from"),
            "to": last.get("to"),
            "proposals": last.get("proposals", []),
            "clamps": last.get("clamps", []),
            "inputs": last.get("inputs", {}),
            "next": {**following, "at": _epoch(following["at"])} if following else None,
        },
        "rollout": {key: status.get("rollout", {}).get(key) for key in ("state", "message")},
    }


def _about(look: Look) -> Json:
    problem = look.problem
    return {
        "at": look.at,
        "number": look.number,
        "gap": max(SHORTEST_GAP, 4 * look.interval),
        "server": look.server,
        "namespace": look.namespace,
        "problem": problem and {"what": problem.what, "remedy": problem.remedy, "since": problem.since},
        "notes": list(look.notes),
    }


def _summary(rows: Sequence[Json]) -> Json:
    known = [row["tokensPerSecond"] for row in rows if row["tokensPerSecond"] is not None]
    return {
        "deployments": len(rows),
        "levels": {str(level): sum(row["level"] == level for row in rows) for level in Level},
        "ready": sum(row["ready"] or 0 for row in rows),
        "desired": sum(row["desired"] or 0 for row in rows),
        "tokensPerSecond": sum(known) if known else None,
        "late": sum(_is_late(row) for row in rows),
        "measured": sum(row["queueWait"] is not None for row in rows),
    }


def _is_late(row: Json) -> bool:
    wait, target = row["queueWait"], row["queueWaitTarget"]
    return wait is not None and target is not None and wait > target


def _pod(body: Body) -> Json:
    """As Kubernetes tells it. What only the operator learns from the server itself is in the counts by phase."""
    metadata = body["metadata"]
    try:
        pod = state(body, Around())
    except (KeyError, TypeError, ValueError) as error:  # whoever may edit a pod may write what he likes into its labels
        role, phase, routed, message = "?", "Unreadable", False, f"its labels or status make no sense: {error}"
        revision, restarts = "", 0
    else:
        role, phase, routed, revision = str(pod.role), str(pod.phase), pod.routable, pod.revision
        phase = "Draining" if pod.is_draining else phase
        message, restarts = pod.loss_announced or pod.message, pod.restarts
    return {
        "name": metadata["name"],
        "role": role,
        "phase": phase,
        "routed": routed,
        "revision": revision,
        "node": body.get("spec", {}).get("nodeName"),
        "createdAt": _epoch(metadata.get("creationTimestamp")),
        "restarts": restarts,
        "message": message,
    }


def _condition(condition: Body) -> Json:
    return {
        "type": condition["type"],
        "status": condition["status"],
        "reason": condition["reason"],
        "message": condition["message"],
        "since": _epoch(condition.get("lastTransitionTime")),
        "notable": is_notable(condition),
    }


def _history(look: Look, body: Body) -> list[Point]:
    return list(look.history.get(body["metadata"]["uid"], ()))


def _epoch(text: str | None) -> float | None:
    return epoch(text) if text else None
