"""Pod objects to PodStates: what each pod is doing, in the words that people need, from what Kubernetes says of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from headrace_operator.decide import manifests
from headrace_operator.decide.ports import HTTP_PORT
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState, Role, Startup
from headrace_operator.observe.nodes import NodeFacts, loss_announced
from headrace_operator.observe.scrape import Reading
from headrace_operator.observe.server_facts import ServerFacts

CONFIGURATION_ERROR = 78  # EX_CONFIG: the server's word for "this model cannot be served"
ENDED = {"Failed", "Succeeded"}  # of a pod that always restarts: evicted, preempted, or its node shut down
IMAGE_TROUBLES = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
DEVICE_FLAG = "--device="
CRASHES = 2  # restarts without a ready moment that are a loop also while the kubelet lets the container run again
# Phases in which a server may hold requests, so that its numbers count.
ASKED = {PodPhase.READY, PodPhase.UNREADY, PodPhase.DEVICE_MISMATCH, PodPhase.TERMINATING}
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Around:
    """What is known beside the pods themselves."""

    samples: Mapping[str, PodSample] = field(default_factory=dict)  # by pod UID; none of a pod that did not answer
    facts: Mapping[str, ServerFacts] = field(default_factory=dict)  # by pod UID
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)  # by name

    @classmethod
    def told(
        cls,
        readings: Mapping[str, Reading | None],
        known: Mapping[str, ServerFacts | None],
        nodes: Mapping[str, NodeFacts],
    ) -> "Around":
        """`known`: what each pod had said before. One that misses a question still computes where it did."""
        answers = {uid: reading for uid, reading in readings.items() if reading is not None}
        before = {uid: facts for uid, facts in known.items() if facts is not None}
        now = {uid: reading.facts for uid, reading in answers.items()}
        return cls({uid: reading.sample for uid, reading in answers.items()}, {**before, **now}, nodes)


def observed(bodies: Iterable[Body], around: Around) -> Observed:
    """All pods of one InferenceDeployment, by ordinal."""
    states = sorted((state(body, around) for body in bodies), key=lambda pod: (pod.ordinal, pod.created_at))
    return Observed(
        pods=tuple([pod for pod in states if pod.role is not Role.SHADOW]),
        shadows=tuple([pod for pod in states if pod.role is Role.SHADOW]),
    )


def state(body: Body, around: Around) -> PodState:
    metadata = body["metadata"]
    uid, node = metadata["uid"], body.get("spec", {}).get("nodeName")
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    startup, device = _startup(body, around.facts.get(uid, ServerFacts()))
    phase, message = _phase(body, startup, device)
    unrouted = annotations.get(manifests.UNROUTED_ANNOTATION)
    full = _condition(body, "PodScheduled") if phase is PodPhase.UNSCHEDULABLE else {}
    return PodState(
        name=metadata["name"],
        uid=uid,
        ordinal=int(labels.get(manifests.ORDINAL_LABEL, -1)),
        revision=labels.get(manifests.REVISION_LABEL, ""),
        phase=phase,
        created_at=epoch(metadata["creationTimestamp"]),
        routable=labels.get(manifests.ROUTABLE_LABEL) == "true",
        ready_at=_ready_at(body),
        unrouted_at=float(unrouted) if unrouted else None,
        unschedulable_since=epoch(full["lastTransitionTime"]) if full.get("lastTransitionTime") else None,
        message=message,
        sample=around.samples.get(uid) if phase in ASKED else None,
        role=_role(labels),
        node=node,
        address=body.get("status", {}).get("podIP"),
        admin_port=_admin_port(body),
        loss_announced=loss_announced(body, around.nodes.get(node)),
        startup=startup,
        restarts=_container(body).get("restartCount", 0),
    )


def obstacle(body: Body) -> str:
    """Why a pod of any kind does not get ready, in the words of whoever says so; empty where nobody does."""
    scheduled = _condition(body, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return f"{PodPhase.UNSCHEDULABLE}: {scheduled.get('message', '')}"
    found = _trouble(_container(body))
    return f"{found[0]}: {found[1]}" if found else ""


def metrics_urls(bodies: Iterable[Body]) -> dict[str, str]:
    """Pods worth asking, by UID: those whose server runs. One that loads may not listen yet; that is no failure."""
    return {
        body["metadata"]["uid"]: f"http://{body['status']['podIP']}:{_admin_port(body)}/metrics"
        for body in bodies
        if body.get("status", {}).get("podIP") and (is_ready(body) or _running_since(body) is not None)
    }


def _phase(body: Body, startup: Startup, device: str | None) -> tuple[PodPhase, str]:
    if body["metadata"].get("deletionTimestamp"):
        return PodPhase.TERMINATING, ""
    if body.get("status", {}).get("phase") in ENDED:
        return PodPhase.LOST, body["status"].get("message") or body["status"].get("reason", "")
    if is_ready(body):
        wanted = _device_asked_for(body)
        if device is None or wanted is None or device == wanted:
            return PodPhase.READY, ""
        return PodPhase.DEVICE_MISMATCH, f"computes on {device}, spec.model.device is {wanted}"
    scheduled = _condition(body, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return PodPhase.UNSCHEDULABLE, scheduled.get("message", "")
    return _trouble(_container(body)) or _progress(body, startup)


def _trouble(container: Body) -> tuple[PodPhase, str] | None:
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated", {})
    said = ended.get("message", "").strip()
    if ended.get("exitCode") == CONFIGURATION_ERROR:
        return PodPhase.MODEL_REFUSED, said or "the server gave no reason; see its log"
    if waiting.get("reason") in IMAGE_TROUBLES:
        return PodPhase.IMAGE_PULL_FAILED, waiting.get("message", "")
    if waiting.get("reason") == "CrashLoopBackOff" or (_restarts_in_vain(container, ended)):
        why = said or waiting.get("message", "")
        told = f"exit status {ended.get('exitCode')}; restarted {container.get('restartCount', 0)} times"
        return PodPhase.CRASH_LOOPING, f"{told}; {why}" if why else told
    return None


def _restarts_in_vain(container: Body, ended: Body) -> bool:
    """Started again and again, and never ready between: it crashes also in the moments in which it runs."""
    has_failed = ended.get("exitCode", 0) != 0
    return has_failed and container.get("restartCount", 0) >= CRASHES and not container.get("started")


def _progress(body: Body, startup: Startup) -> tuple[PodPhase, str]:
    """How far a start is that goes well."""
    if startup.scheduled_at is None:
        return PodPhase.STARTING, ""
    if _running_since(body) is None:
        waiting = _container(body).get("state", {}).get("waiting", {})
        return PodPhase.PULLING, waiting.get("message", "")
    if _was_ready(body):
        return PodPhase.UNREADY, _condition(body, "Ready").get("message", "")
    return (PodPhase.LOADING if startup.weights_at is None else PodPhase.WARMING_UP), ""


def _was_ready(body: Body) -> bool:
    """In this run of its container: since it began, Ready has turned False, and from what else than True?"""
    lost, began = _condition(body, "Ready").get("lastTransitionTime"), _running_since(body)
    return lost is not None and began is not None and epoch(lost) > began


def _startup(body: Body, facts: ServerFacts) -> tuple[Startup, str | None]:
    """The steps of this start, and the device; what a server said before its container was started again is void."""
    scheduled, running = _condition(body, "PodScheduled"), _running_since(body)
    # Kubernetes writes whole seconds, the server fractions.
    is_this_run = running is not None and (facts.weights_at is None or facts.weights_at >= running)
    now = facts if is_this_run else ServerFacts()
    scheduled_at = epoch(scheduled["lastTransitionTime"]) if scheduled.get("status") == "True" else None
    return Startup(scheduled_at, running, now.weights_at, now.warmed_at), now.device


def _running_since(body: Body) -> float | None:
    """When the server's container was started; None while none runs."""
    started = _container(body).get("state", {}).get("running", {}).get("startedAt")
    return epoch(started) if started else None


def _container(body: Body) -> Body:
    """The server's status; empty before the node has written one."""
    statuses: list[Body] = body.get("status", {}).get("containerStatuses", [])
    return statuses[0] if statuses else {}


def _admin_port(body: Body) -> int:
    """In the pod's own words: before there was an admin port, the HTTP port was asked."""
    ports = (port for container in body.get("spec", {}).get("containers", []) for port in container.get("ports", []))
    named: Iterable[int] = (port["containerPort"] for port in ports if port.get("name") == manifests.ADMIN)
    return next(iter(named), HTTP_PORT)


def _device_asked_for(body: Body) -> str | None:
    """In the pod's own words: a newer manifest may ask for another one."""
    containers = body.get("spec", {}).get("containers", [])
    words = [word for container in containers for word in container.get("args", []) if word.startswith(DEVICE_FLAG)]
    return words[0].removeprefix(DEVICE_FLAG) if words else None


def _role(labels: Mapping[str, str]) -> Role:
    """A pod from before roles existed is a replica."""
    return Role(labels.get(manifests.ROLE_LABEL, Role.REPLICA))


def is_ready(body: Body) -> bool:
    return _condition(body, "Ready").get("status") == "True"


def _ready_at(body: Body) -> float | None:
    ready = _condition(body, "Ready")
    return epoch(ready["lastTransitionTime"]) if ready.get("status") == "True" else None


def _condition(body: Body, kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any]
    for found in body.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return found
    return {}


@lru_cache(maxsize=16384)  # of thousands of pods, at every look at each
def epoch(text: str) -> float:
    """Epoch seconds of an RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()
