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
LOOK = 30.0  # s between two lists of the operator


def test_what_somebody_touched_is_repaired_and_nothing_else_is_written(
    cluster: LocalCluster, proxy: FaultProxy, start: Callable[..., OperatorProcess]
) -> None:
    start(proxy)
    cluster.apply(manifest(NAME, replicas=1))
    cluster.wait("it is ready", lambda: status(cluster, NAME).get("readyReplicas") == 1)

    written = len(proxy.calls)
    time.sleep(LOOK + 5)  # the next list is in it
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
