"""What a person looks at first when a cluster does not do what was expected: pods, events, logs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.api import Api
from cluster.waiting import tail

EVENTS = 25
POD_LOG_LINES = 12
PROGRAM_LOG_LINES = 8


def evidence(api: Api, logs: Sequence[Path]) -> str:
    """Text for an error message. Says so where the API server does not answer, instead of failing."""
    try:
        pods = api.get("/api/v1/pods")["items"]
        parts = [_pods(pods), _events(api.get("/api/v1/events")["items"]), *_pod_logs(api, pods)]
    except OSError as error:
        parts = [f"--- the API server does not answer: {error}"]
    return "\n".join([*parts, *(tail(log, PROGRAM_LOG_LINES) for log in logs)])


def _pods(pods: Iterable[dict[str, Any]]) -> str:
    return "\n".join(["--- pods", *(_pod(pod) for pod in pods)])


def _pod(pod: dict[str, Any]) -> str:
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions: dict[str, dict[str, str]] = {condition["type"]: condition for condition in status.get("conditions", [])}
    ready = conditions.get("Ready", {}).get("status", "-")
    words = [
        f"{metadata['namespace']}/{metadata['name']}",
        status.get("phase", "-"),
        f"ready={ready}",
        f"node={pod['spec'].get('nodeName', '-')}",
        f"ip={status.get('podIP', '-')}",
        *(["terminating"] if "deletionTimestamp" in metadata else []),
        *(_container(container) for container in status.get("containerStatuses", [])),
        *(f"{name}: {found['message']}" for name, found in conditions.items() if found.get("message")),
    ]
    return "  ".join(words)


def _container(status: dict[str, Any]) -> str:
    """E.g. `server: waiting CrashLoopBackOff, 3 restarts`."""
    states: dict[str, dict[str, str]] = status.get("state") or {"unknown": {}}
    state, detail = next(iter(states.items()))
    reason, message = detail.get("reason", ""), detail.get("message", "")
    words = " ".join(filter(None, [state, reason, message]))
    return f"{status['name']}: {words}, {status.get('restartCount', 0)} restarts"


def _events(events: list[dict[str, Any]]) -> str:
    latest = sorted(events, key=_when)[-EVENTS:]
    return "\n".join(["--- the latest events", *(_event(event) for event in latest)])


def _when(event: dict[str, Any]) -> str:
    return str(event.get("eventTime") or event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])


def _event(event: dict[str, Any]) -> str:
    about = event["involvedObject"]
    return (
        f"{_when(event)}  {event.get('type')}  {event.get('reason')}  "
        f"{about.get('kind')} {about.get('namespace', '')}/{about.get('name')}: {event.get('message', '')}"
    )


def _pod_logs(api: Api, pods: Iterable[dict[str, Any]]) -> Iterable[str]:
    for pod in pods:
        metadata = pod["metadata"]
        for container in pod.get("status", {}).get("containerStatuses", []):
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
            yield f"--- log of {metadata['namespace']}/{metadata['name']} {container['name']}"
            try:
                yield api.text(path, container=container["name"], tailLines=POD_LOG_LINES).rstrip()
            except OSError as error:
                yield f"({error})"
