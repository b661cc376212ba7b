"""What is kept of a watched object: what is read here. The rest of 2,000 pods and 500 deployments would be 100 MB."""

from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any

from headrace_operator.observe.conflicts import foreign
from headrace_operator.observe.fields import entries

Body = Mapping[str, Any]
METADATA = (
    "name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels",
    "annotations", "ownerReferences",
)  # fmt: skip
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # the spec once more
SPEC = ("nodeName", "tolerations")  # of a pod
STATUS = ("phase", "reason", "message", "podIP")  # of a pod
CONDITIONS = {"Ready", "PodScheduled", "DisruptionTarget"}
CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
CONTAINER = ("state", "lastState", "restartCount", "started")
LONGEST = 100  # characters of a text that others may have as well


def deployment(body: Body) -> Body:
    """Of an InferenceDeployment. Of who wrote which field: who wrote spec.replicas."""
    metadata = _picked(body["metadata"], METADATA)
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {name: text for name, text in annotations.items() if name != LAST_APPLIED}
    if writers := [_writer(entry) for entry in entries(body) if "f:replicas" in _spec_of(entry)]:
        metadata["managedFields"] = writers
    rest = {name: value for name, value in body.items() if name != "metadata"}
    kept: Body = _shared({**rest, "metadata": metadata})
    return kept


def child(body: Body) -> Body:
    """Of a pod or a revision. Of who wrote which field: what others wrote that is ours."""
    metadata = _picked(body["metadata"], METADATA)
    if written := foreign(body):
        metadata["managedFields"] = written
    rest = body
    if "spec" in body:
        rest = {"spec": _spec(body["spec"]), "status": _status(body.get("status", {}))}
    kept: Body = _shared({**rest, "metadata": metadata})
    return kept


def _spec(spec: Body) -> Body:
    containers = [{"args": one.get("args", []), "ports": one.get("ports", [])} for one in spec.get("containers", [])]
    return {**_picked(spec, SPEC), "containers": containers}


def _status(status: Body) -> Body:
    """With the first container's state alone, which is the server's."""
    conditions = [_picked(one, CONDITION) for one in status.get("conditions", []) if one["type"] in CONDITIONS]
    containers = [_picked(one, CONTAINER) for one in status.get("containerStatuses", [])[:1]]
    return {**_picked(status, STATUS), "conditions": conditions, "containerStatuses": containers}


def _spec_of(entry: Body) -> Body:
    found: Body = entry.get("fieldsV1", {}).get("f:spec", {})
    return found


def _writer(entry: Body) -> Body:
    return {**_picked(entry, ("manager", "operation", "subresource")), "fieldsV1": {"f:spec": {"f:replicas": {}}}}


def _picked(body: Body, names: Iterable[str]) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def _shared(value: Any) -> Any:
    """The same, in which equal texts are one object: each answer of the API server brings all its keys anew."""
    if isinstance(value, dict):
        return {intern(name): _shared(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_shared(entry) for entry in value]
    return intern(value) if isinstance(value, str) and len(value) <= LONGEST else value
