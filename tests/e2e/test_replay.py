"""`headrace replay` and `headrace simulate --from-cr` on an object that lives: its record gives the same decisions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import LocalCluster
from deployments import wait_ready
from tools import headrace

pytestmark = pytest.mark.e2e
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2024-05-10 00:{second // 60:02}:{second % 60:02}.000000,200,40\n" for second in range(120)
)


def test_what_a_cluster_recorded_is_decided_again(
    cluster: LocalCluster, deploy: Callable[..., str], tmp_path: Path
) -> None:
    name = deploy(minReplicas=1, maxReplicas=3)
    wait_ready(cluster, name, 1)
    cluster.kubectl("patch", "infdep", name, "--type=merge", "-p", '{"spec":{"autoscaling":{"minReplicas":2}}}')
    wait_ready(cluster, name, 2)

    status = tmp_path / "status.json"
    status.write_text(cluster.kubectl("get", "infdep", name, "-o", "json"))
    again = headrace(cluster, "replay", str(status), "-o", "json", KUBECONFIG="/nothing")
    assert again.status == 0, again.out + again.err
    told = {row["record"]: row for row in json.loads(again.out)}
    assert {row["agrees"] for row in told.values()} == {True}
    assert (told["lastChange"]["to"], told["lastChange"]["computed"]["to"]) == (2, 2)

    other = headrace(cluster, "replay", str(status), "--set", "minReplicas=3", "-o", "json")
    assert {row["computed"]["to"] for row in json.loads(other.out)} == {3}

    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)
    options = ("--trace", str(trace), "--policy", "headrace", "--start-replicas", "2", "--json", "-")
    simulated = headrace(cluster, "simulate", *options, "--from-cr", name)
    assert simulated.status == 0, simulated.out + simulated.err
    work = json.loads(simulated.out)["work"]
    assert (work["min_replicas"], work["max_replicas"]) == (2, 3)
