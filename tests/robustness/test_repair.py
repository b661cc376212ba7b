"""What somebody does to the Service and the disruption budget is undone; while nobody does, nothing is written."""

import time
from collections.abc import Callable

import pytest
from cluster import LocalCluster
from deployments import pods, status
from fault_proxy import FaultProxy
from kubelet_free import manifest
from operator_process import OperatorProcess

pytestmark = pytest.mark.cluster
NAME = "repaired"


def lists(proxy: FaultProxy, since: int) -> int:
    """How often the operator has listed Services since then: it does so every half a minute."""
    listed = [call for call, _ in proxy.calls[since:] if (call.verb, call.resource) == ("list", "services")]
    return len(listed)


def test_what_somebody_touched_is_repaired_and_nothing_else_is_written(
    cluster: LocalCluster, proxy: FaultProxy, start: Callable[..., OperatorProcess]
) -> None:
    start(proxy)
    cluster.apply(manifest(NAME, replicas=1))
    cluster.wait("it is ready", lambda: status(cluster, NAME).get("readyReplicas") == 1)

    written = len(proxy.calls)
    cluster.wait("a list", lambda: lists(proxy, written))
    time.sleep(3)  # looks come every half second; a slow machine sees less of them, and nothing wrong
    touched = [call for call, _ in proxy.writes(since=written) if call.resource in {"services", "poddisruptionbudgets"}]
    assert touched == []

    budget = cluster.object("pdb", NAME)["spec"]["minAvailable"]
    cluster.kubectl("delete", "service", NAME)
    cluster.kubectl("patch", "pdb", NAME, "--type=merge", "--patch", '{"spec": {"minAvailable": 7}}')

    def is_repaired() -> bool:
        return (
            cluster.object("pdb", NAME)["spec"]["minAvailable"] == budget
            and cluster.object("service", NAME)["spec"]["selector"]["headrace.dev/deployment"] == NAME
        )

    cluster.wait("both are repaired", is_repaired)
    cluster.kubectl("delete", "infdep", NAME)
    cluster.wait("nothing is left", lambda: not pods(cluster, NAME))
