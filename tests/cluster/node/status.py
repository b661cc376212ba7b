"""From container states to a pod's status, pure: phase, conditions and container statuses as a kubelet writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = Mapping[str, Any]


@dataclass(slots=True)
class ContainerState:
    """One container as the API shows it; changed by the container's own task."""

    name: str
    image: str
    waiting: dict[str, Any] | None = field(default_factory=lambda: {"reason": "ContainerCreating"})
    running: dict[str, Any] | None = None
    terminated: dict[str, Any] | None = None
    last: dict[str, Any] | None = None  # the termination before
    restarts: int = 0
    started: bool = False  # the startup probe has passed
    ready: bool = False
    is_final: bool = False  # it ended and will not start again

    def as_status(self) -> dict[str, Any]:
        states = {"waiting": self.waiting, "running": self.running, "terminated": self.terminated}
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image,
            "restartCount": self.restarts,
            "started": self.started,
            "ready": self.ready,
            "state": {kind: value for kind, value in states.items() if value is not None},
            "lastState": {"terminated": self.last} if self.last else {},
        }


@dataclass(frozen=True, slots=True)
class Addresses:
    pod: str
    host: str


def pod_status(
    pod: Body, initial: Sequence[ContainerState], main: Sequence[ContainerState], addresses: Addresses | None, now: str
) -> dict[str, Any]:
    """`now` is an RFC 3339 time. Conditions of others (PodScheduled, readiness gates) stay as they are."""
    before = pod.get("status", {})
    is_initialized = all(state.terminated and state.terminated["exitCode"] == 0 for state in initial)
    are_ready = bool(main) and all(state.ready for state in main)
    truths = {
        "Initialized": (is_initialized, "ContainersNotInitialized"),
        "ContainersReady": (are_ready, "ContainersNotReady"),
        "Ready": (are_ready and _gates_open(pod), "ContainersNotReady" if not are_ready else "ReadinessGatesNotReady"),
    }
    status: dict[str, Any] = {
        "phase": _phase(main, is_initialized=is_initialized),
        "conditions": _conditions(before.get("conditions", []), truths, now),
        "containerStatuses": [state.as_status() for state in main],
        "startTime": before.get("startTime", now),
    }
    if initial:
        status["initContainerStatuses"] = [state.as_status() for state in initial]
    if addresses:
        status |= {
            "podIP": addresses.pod,
            "podIPs": [{"ip": addresses.pod}],
            "hostIP": addresses.host,
            "hostIPs": [{"ip": addresses.host}],
        }
    return status


def _phase(main: Sequence[ContainerState], *, is_initialized: bool) -> str:
    if main and all(state.is_final for state in main):
        failed = any(state.terminated and state.terminated["exitCode"] != 0 for state in main)
        return "Failed" if failed else "Succeeded"
    has_begun = is_initialized and all(state.running or state.terminated or state.last for state in main)
    return "Running" if has_begun else "Pending"


def _gates_open(pod: Body) -> bool:
    met = {c["type"] for c in pod.get("status", {}).get("conditions", []) if c["status"] == "True"}
    return all(gate["conditionType"] in met for gate in pod["spec"].get("readinessGates", []))


def _conditions(before: Sequence[Body], truths: Mapping[str, tuple[bool, str]], now: str) -> list[dict[str, Any]]:
    known = {condition["type"]: condition for condition in before}
    result = [dict(condition) for condition in before if condition["type"] not in truths]
    for kind, (is_true, why_not) in truths.items():
        status = str(is_true)
        since = known[kind]["lastTransitionTime"] if known.get(kind, {}).get("status") == status else now
        condition = {"type": kind, "status": status, "lastTransitionTime": since}
        result.append(condition if is_true else {**condition, "reason": why_not})
    return result
