"""`headrace status`: what each InferenceDeployment promises, has, and decided last; for one of them also its pods."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from headrace_operator import kube
from headrace_operator.decide.reasons import Progress
from headrace_operator.decide.values import PodState
from headrace_operator.kube import Body
from headrace_operator.observe.pods import Around, observed
from headrace_operator.tools.connection import Connection, find, pods
from headrace_operator.tools.table import duration, table

UNKNOWN = "unknown"
# Conditions that should be True; the others tell of something special when they are.
WANTED = {"Ready", "ModelValid", "MetricsAvailable", "GPUCapacity", "AbleToScale", "ScalingActive"}


@dataclass(frozen=True, slots=True)
class Row:
    """One InferenceDeployment, as scripts see it. `unknown` and None are what the operator has not said yet."""

    namespace: str
    name: str
    mode: str
    min_replicas: int
    max_replicas: int
    ready: int | None
    desired: int | None
    warm: int | None  # standby pods that could serve at once
    queue_wait_p95: str  # such as 120ms
    tokens_per_second: str
    reason: str
    message: str


def row(body: Body) -> Row:
    scaling, status = body["spec"].get("autoscaling", {}), body.get("status", {})
    last = status.get("lastDecision", {})
    return Row(
        namespace=body["metadata"]["namespace"],
        name=body["metadata"]["name"],
        mode=scaling.get("mode", UNKNOWN),
        min_replicas=scaling.get("minReplicas", 1),
        max_replicas=scaling.get("maxReplicas", 1),
        ready=status.get("readyReplicas"),
        desired=status.get("desiredReplicas"),
        warm=status.get("warmReplicas"),
        queue_wait_p95=status.get("queueWaitP95", UNKNOWN),
        tokens_per_second=status.get("tokensPerSecond", UNKNOWN),
        reason=last.get("reason", UNKNOWN),
        message=last.get("message", "the operator has not looked at it yet"),
    )


async def show(connection: Connection, options: argparse.Namespace) -> int:
    if options.name:
        body = await find(connection, options.name)
        bodies = await pods(connection, options.name)
        told = one(body, bodies, options.output, _now())
    else:
        namespace = None if options.all_namespaces else connection.namespace
        found = await connection.api.get(kube.objects(namespace))
        told = _all([row(body) for body in found["items"]], options.output, connection.namespace)
    sys.stdout.write(told)
    return 0


def _now() -> float:
    return time.time()  # noqa: TID251 - the edge that reads the clock


def _all(rows: list[Row], output: str, namespace: str) -> str:
    if output == "json":
        return _json([asdict(row) for row in rows])
    if not rows:
        return f"no InferenceDeployments in namespace {namespace}; --all-namespaces looks everywhere\n"
    return _table(rows)


def one(body: Body, bodies: list[Body], output: str, now: float) -> str:
    """Of one InferenceDeployment and all of its pods. `now`: epoch seconds."""
    states = observed(bodies, Around()).everybody
    conditions = body.get("status", {}).get("conditions", [])
    if output == "json":
        told = [_pod_as_json(pod) for pod in states]
        return _json({**asdict(row(body)), "conditions": conditions, "pods": told})
    return _table([row(body)]) + f"\n{row(body).message}\n" + _conditions(conditions) + _pods(states, now)


def _table(rows: list[Row]) -> str:
    head = ("NAMESPACE", "NAME", "MODE", "READY", "DESIRED", "BOUNDS", "WARM", "QUEUE-WAIT", "TOK/S", "REASON")
    return table(
        head,
        [
            (
                row.namespace, row.name, row.mode, _known(row.ready), _known(row.desired),
                f"{row.min_replicas}..{row.max_replicas}", _known(row.warm), row.queue_wait_p95,
                row.tokens_per_second, row.reason,
            )
            for row in rows
        ],
    )  # fmt: skip


def _known(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)


def _conditions(conditions: list[dict[str, Any]]) -> str:
    notable = [found for found in conditions if _is_notable(found)]
    if not notable:
        return ""
    rows = [(found["type"], found["status"], found["reason"], found["message"]) for found in notable]
    return "\n" + table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)


def _is_notable(condition: dict[str, Any]) -> bool:
    """A rollout that ended is none any more, whether it goes on or not."""
    if condition["type"] == "Progressing":
        return bool(condition["reason"] != Progress.ROLLOUT_COMPLETE)
    return bool(condition["status"] != ("True" if condition["type"] in WANTED else "False"))


def _pods(states: tuple[PodState, ...], now: float) -> str:
    rows = [
        (
            pod.name, pod.role, pod.phase, "yes" if pod.routable else "no", pod.revision,
            duration(now - pod.created_at), pod.loss_announced or pod.message,
        )
        for pod in states
    ]  # fmt: skip
    head = ("POD", "ROLE", "PHASE", "ROUTED", "REVISION", "AGE", "MESSAGE")
    return "\n" + (table(head, rows) if rows else "no pods\n")


def _pod_as_json(pod: PodState) -> dict[str, Any]:
    return {
        "name": pod.name,
        "role": pod.role,
        "phase": pod.phase,
        "routed": pod.routable,
        "revision": pod.revision,
        "createdAt": pod.created_at,
        "message": pod.loss_announced or pod.message,
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
