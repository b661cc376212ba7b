"""Pod objects to PodStates: what each pod is doing, in the words that people need, from what Kubernetes says of it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from headrace_operator.decide import manifests
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState

CONFIGURATION_ERROR = 78  # EX_CONFIG: the server's word for "this model cannot be served"
ENDED = {"Failed", "Succeeded"}  # of a pod that always restarts: evicted, preempted, or its node shut down
IMAGE_TROUBLES = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
Body = Mapping[str, Any]


def observed(bodies: Iterable[Body], samples: Mapping[str, PodSample | None]) -> Observed:
    """All pods of one InferenceDeployment, by ordinal; `samples` by pod UID."""
    states = (state(body, samples.get(body["metadata"]["uid"])) for body in bodies)
    return Observed(tuple(sorted(states, key=lambda pod: (pod.ordinal, pod.created_at))))


def state(body: Body, sample: PodSample | None) -> PodState:
    metadata = body["metadata"]
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    phase, message = _phase(body)
    unrouted = annotations.get(manifests.UNROUTED_ANNOTATION)
    return PodState(
        name=metadata["name"],
        uid=metadata["uid"],
        ordinal=int(labels.get(manifests.ORDINAL_LABEL, -1)),
        revision=labels.get(manifests.REVISION_LABEL, ""),
        phase=phase,
        created_at=epoch(metadata["creationTimestamp"]),
        routable=labels.get(manifests.ROUTABLE_LABEL) == "true",
        ready_at=_ready_at(body),
        unrouted_at=float(unrouted) if unrouted else None,
        message=message,
        sample=sample,
    )


def metrics_urls(bodies: Iterable[Body]) -> dict[str, str]:
    """Pods worth asking, by UID: those that serve, and those that still finish what they have."""
    return {
        body["metadata"]["uid"]: f"http://{body['status']['podIP']}:{manifests.HTTP_PORT}/metrics"
        for body in bodies
        if body.get("status", {}).get("podIP") and _condition(body, "Ready").get("status") == "True"
    }


def _phase(body: Body) -> tuple[PodPhase, str]:
    if body["metadata"].get("deletionTimestamp"):
        return PodPhase.TERMINATING, ""
    if body.get("status", {}).get("phase") in ENDED:
        return PodPhase.LOST, body["status"].get("message") or body["status"].get("reason", "")
    if _condition(body, "Ready").get("status") == "True":
        return PodPhase.READY, ""
    scheduled = _condition(body, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return PodPhase.UNSCHEDULABLE, scheduled.get("message", "")
    return _container_phase(body)


def _container_phase(body: Body) -> tuple[PodPhase, str]:
    for container in body.get("status", {}).get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated", {})
        if ended.get("exitCode") == CONFIGURATION_ERROR:
            return PodPhase.MODEL_REFUSED, ended.get("message", "").strip() or "the server gave no reason; see its log"
        if waiting.get("reason") in IMAGE_TROUBLES:
            return PodPhase.IMAGE_PULL_FAILED, waiting.get("message", "")
        if waiting.get("reason") == "CrashLoopBackOff":
            said = ended.get("message", "").strip() or waiting.get("message", "")
            return PodPhase.CRASH_LOOPING, f"exit status {ended.get('exitCode')}; {said}"
    return PodPhase.STARTING, ""


def _ready_at(body: Body) -> float | None:
    ready = _condition(body, "Ready")
    return epoch(ready["lastTransitionTime"]) if ready.get("status") == "True" else None


def _condition(body: Body, kind: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = [
        condition for condition in body.get("status", {}).get("conditions", []) if condition["type"] == kind
    ]
    return found[0] if found else {}


def epoch(text: str) -> float:
    """Epoch seconds of an RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()
