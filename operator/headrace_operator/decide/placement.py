"""Where pods run: the manifest's own pod fields in Kubernetes' words."""

from typing import Any

from headrace_operator.pod_fields import PodFields, Spread, Toleration

Body = dict[str, Any]
# GPU nodes are usually tainted so that nothing else lands on them.
GPU_TAINT = Toleration("Exists", key="nvidia.com/gpu", effect="NoSchedule")


def placement(pod: PodFields, together: dict[str, str]) -> Body:
    """A part of a pod's spec. `together`: labels of the pods that are to spread."""
    fields: Body = {
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [_toleration(given) for given in (GPU_TAINT, *pod.tolerations)],
        "priorityClassName": pod.priority_class,
        "runtimeClassName": pod.runtime_class,
        "topologySpreadConstraints": [_constraint(spread, together) for spread in pod.topology_spread],
        "imagePullSecrets": [{"name": name} for name in pod.pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}


def _toleration(given: Toleration) -> Body:
    fields: Body = {
        "key": given.key,
        "operator": given.operator,
        "value": given.value,
        "effect": given.effect,
        "tolerationSeconds": given.seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _constraint(spread: Spread, together: dict[str, str]) -> Body:
    return {
        "topologyKey": spread.topology_key,
        "maxSkew": spread.max_skew,
        "whenUnsatisfiable": spread.when_unsatisfiable,
        "labelSelector": {"matchLabels": together},
    }
