"""What announces that a pod will soon be gone."""

from typing import Any

import pytest
from headrace_operator.observe.nodes import NodeFacts, loss_announced

Body = dict[str, Any]


def a_pod(*tolerations: Body, conditions: list[Body] | None = None, **annotations: str) -> Body:
    named = {f"headrace.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
    return {
        "metadata": {"annotations": named},
        "spec": {"nodeName": "gpu-a", "tolerations": list(tolerations)},
        "status": {"conditions": conditions or []},
    }  # fmt: skip


def a_node(*taints: Body, **spec: Any) -> NodeFacts:
    return NodeFacts.of({"spec": {"taints": list(taints), **spec}})


def taint(key: str, effect: str = "NoExecute", **value: str) -> Body:
    return {"key": key, "effect": effect, **value}


GPU = taint("nvidia.com/gpu", "NoSchedule")
MAINTENANCE = taint("maintenance", value="now")


@pytest.mark.parametrize(
    ("pod", "node", "why"),
    [
        pytest.param(a_pod(), None, None, id="nothing is known of the node"),
        pytest.param(a_pod(), a_node(GPU), None, id="a taint that only keeps others away"),
        pytest.param(a_pod(), a_node(unschedulable=True), "node gpu-a is cordoned", id="cordon"),
        pytest.param(a_pod(), a_node(MAINTENANCE), "node gpu-a has the taint maintenance:NoExecute", id="eviction"),
        pytest.param(a_pod({"operator": "Exists"}), a_node(MAINTENANCE), None, id="everything is tolerated"),
        pytest.param(
            a_pod({"key": "maintenance", "value": "now", "effect": "NoExecute"}), a_node(MAINTENANCE), None,
            id="tolerated for ever",
        ),
        pytest.param(
            a_pod({"key": "maintenance", "value": "later"}), a_node(MAINTENANCE),
            "node gpu-a has the taint maintenance:NoExecute", id="another value is tolerated",
        ),
        pytest.param(
            a_pod({"key": "maintenance", "operator": "Exists", "effect": "NoSchedule"}), a_node(MAINTENANCE),
            "node gpu-a has the taint maintenance:NoExecute", id="another effect is tolerated",
        ),
        pytest.param(
            a_pod({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}),
            a_node(taint("node.kubernetes.io/unreachable")),
            "node gpu-a has the taint node.kubernetes.io/unreachable:NoExecute", id="tolerated for five minutes",
        ),
        pytest.param(
            a_pod({"operator": "Exists"}), a_node(taint("aws-node-termination-handler/spot-itn", "NoSchedule")),
            "node gpu-a has the taint aws-node-termination-handler/spot-itn:NoSchedule", id="spot notice",
        ),
        pytest.param(
            a_pod(conditions=[{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for a/b",
            }]), None, "PreemptionByScheduler: for a/b", id="disruption",
        ),
        pytest.param(
            a_pod(conditions=[{"type": "DisruptionTarget", "status": "False"}]), None, None, id="no disruption any more"
        ),
        pytest.param(
            a_pod(drain_requested="2026-01-01T00:00:00Z"), a_node(), "a drain was requested", id="a person asks"
        ),
    ],
)  # fmt: skip
def test_loss_is_announced(pod: Body, node: NodeFacts | None, why: str | None) -> None:
    assert loss_announced(pod, node) == why
