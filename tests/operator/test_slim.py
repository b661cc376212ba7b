"""What is kept of an object is enough for everything that is read of it, and little else."""

import json
from typing import Any

import pytest
from headrace_operator import slim
from headrace_operator.observe.conflicts import edits
from headrace_operator.observe.fields import owners
from headrace_operator.observe.pods import Around, state

Body = dict[str, Any]
THEN = "2026-11-21T10:00:00Z"
REPLICAS = ("spec", "replicas")


def a_deployment() -> Body:
    fields = {
        "kubectl": {"f:metadata": {"f:labels": {}}, "f:spec": {"f:model": {"f:source": {}}}},
        "hpa": {"f:spec": {"f:replicas": {}}},
        "headrace": {"f:status": {"f:conditions": {}}},
    }
    return {
        "kind": "InferenceDeployment",
        "metadata": {
            "name": "chat", "namespace": "default", "uid": "u", "resourceVersion": "7", "generation": 2,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}" * 500, "team": "a"},
            "managedFields": [{"manager": manager, "fieldsV1": written} for manager, written in fields.items()],
        },
        "spec": {"replicas": 3, "model": {"source": "pvc://models/m"}},
        "status": {"desiredReplicas": 3, "decisions": [{"to": 3, "message": "x" * 200}]},
    }  # fmt: skip


def test_of_a_deployment_spec_and_status_stay_and_who_set_its_replicas() -> None:
    whole = a_deployment()
    kept = slim.deployment(whole)
    assert (kept["spec"], kept["status"]) == (whole["spec"], whole["status"])
    assert owners(kept, REPLICAS) == owners(whole, REPLICAS) == {"hpa"}
    assert kept["metadata"]["annotations"] == {"team": "a"}
    assert len(json.dumps(kept["metadata"])) < 300
    assert whole == a_deployment(), "what was given is not changed"


CONDITIONS = [
    {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": THEN},
    {"type": "Ready", "status": "True", "lastTransitionTime": THEN},
    {"type": "PodScheduled", "status": "True", "lastTransitionTime": THEN},
]
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
RUNS = {"name": "server", "image": "i", "started": True, "state": {"running": {"startedAt": THEN}}, "restartCount": 1}
CRASHES = {
    "name": "server",
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
    "lastState": {"terminated": {"exitCode": 1, "message": "out of memory"}},
}


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"podIP": "127.0.0.9", "conditions": CONDITIONS, "containerStatuses": [RUNS]}, id="ready"),
        pytest.param({"conditions": [{**UNPLACED, "lastTransitionTime": THEN}]}, id="waits for a GPU"),
        pytest.param({"conditions": CONDITIONS[2:], "containerStatuses": [CRASHES]}, id="crashes"),
        pytest.param({"phase": "Failed", "reason": "Evicted", "message": "node is low on memory"}, id="evicted"),
        pytest.param({"conditions": [*CONDITIONS, {"type": "DisruptionTarget", "status": "True"}]}, id="goes soon"),
        pytest.param({}, id="new"),
    ],
)
def test_of_a_pod_the_same_is_read_as_of_the_whole(status: Body) -> None:
    label = {"manager": "kubectl-label", "fieldsV1": {"f:metadata": {"f:labels": {"f:headrace.dev/routable": {}}}}}
    ours = {"manager": "headrace", "fieldsV1": {"f:spec": {"f:containers": {"f:image": {}}}}}
    ports = [{"name": "admin", "containerPort": 9191}]
    container = {"name": "server", "args": ["serve", "--device=cuda"], "ports": ports, "env": [{"name": "A"}]}
    whole = {
        "metadata": {
            "name": "chat-0", "namespace": "default", "uid": "u", "creationTimestamp": THEN,
            "labels": {"headrace.dev/ordinal": "0"}, "managedFields": [label, ours],
        },
        "spec": {"nodeName": "n", "containers": [container], "volumes": [{"name": "models"}]},
        "status": status,
    }  # fmt: skip
    kept = slim.child(whole)
    assert state(kept, Around()) == state(whole, Around())
    assert edits(kept) == edits(whole) != []
    assert "volumes" not in kept["spec"]


def test_a_revision_keeps_its_record() -> None:
    record = {
        "kind": "ControllerRevision",
        "metadata": {"name": "chat-1", "namespace": "default", "uid": "u", "ownerReferences": [{"uid": "o"}]},
        "revision": 4,
        "data": {"spec": {"containers": [{"env": [{"name": "A", "value": "b"}]}]}, "metadata": {}},
    }
    assert slim.child(record) == record


def test_equal_texts_are_one_object() -> None:
    """Each of two thousand pods would bring all its keys and words anew."""
    one, two = (slim.child(json.loads('{"metadata": {"uid": "u"}, "spec": {"nodeName": "gpu node"}}')) for _ in "ab")
    assert one["spec"]["nodeName"] is two["spec"]["nodeName"]
    assert next(iter(one["spec"])) is next(iter(two["spec"]))
