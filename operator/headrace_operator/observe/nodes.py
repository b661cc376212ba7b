"""What is known of a pod's near end: its node is cordoned, tainted or called back, or somebody wants it replaced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_operator.decide import manifests

Body = Mapping[str, Any]
# Taints with which autoscalers and clouds announce that a node will go, whatever their effect.
LEAVING = frozenset({
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "aws-node-termination-handler/rebalance-recommendation",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/spot-itn",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "node.kubernetes.io/out-of-service",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """As much of a node as matters to the pods on it."""

    is_cordoned: bool
    taints: tuple[Taint, ...]

    @classmethod
    def of(cls, node: Body) -> "NodeFacts":
        spec = node.get("spec", {})
        taints = (Taint(taint["key"], taint.get("value", ""), taint["effect"]) for taint in spec.get("taints", []))
        return cls(bool(spec.get("unschedulable")), tuple(taints))


def loss_announced(pod: Body, node: NodeFacts | None) -> str | None:
    """Why this pod will soon be gone, in words for a person; None = it stays. `node`: None = nothing known of it."""
    if manifests.DRAIN_REQUESTED_ANNOTATION in pod["metadata"].get("annotations", {}):
        return "a drain was requested"
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return f"{condition.get('reason', 'disruption')}: {condition.get('message', '')}".rstrip(": ")
    return None if node is None else _of_node(pod.get("spec", {}), node)


def _of_node(spec: Body, node: NodeFacts) -> str | None:
    name = spec.get("nodeName", "")
    for taint in node.taints:
        evicts = taint.effect == "NoExecute" and not _tolerated(taint, spec.get("tolerations", []))
        if evicts or taint.key in LEAVING:
            return f"node {name} has the taint {taint.key}:{taint.effect}"
    return f"node {name} is cordoned" if node.is_cordoned else None


def _tolerated(taint: Taint, tolerations: list[Body]) -> bool:
    """For ever: a toleration for some seconds puts the end off, and does not call it off."""
    return any(_matches(entry, taint) and entry.get("tolerationSeconds") is None for entry in tolerations)


def _matches(toleration: Body, taint: Taint) -> bool:
    """As Kubernetes has it: no key with Exists is every key, no effect is every effect."""
    if toleration.get("effect") not in {None, "", taint.effect}:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in {None, "", taint.key}
    return bool(toleration.get("key") == taint.key and toleration.get("value", "") == taint.value)
