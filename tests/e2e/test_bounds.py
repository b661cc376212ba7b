"""What bounds the number of replicas beside the load: a mode that only watches, schedules, a namespace's GPU budget."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import LocalCluster
from deployments import condition, pods, status, upgrade, wait_ready

pytestmark = pytest.mark.e2e


def edit(cluster: LocalCluster, name: str, **autoscaling: Any) -> None:
    patch = {"spec": {"autoscaling": autoscaling}}
    cluster.kubectl("patch", "infdep", name, "--type=merge", "--patch", json.dumps(patch))


def wait_decision(cluster: LocalCluster, name: str, what: str, is_there: Callable[[dict[str, Any]], bool]) -> Any:
    def decided() -> dict[str, Any] | None:
        last: dict[str, Any] = status(cluster, name)["lastDecision"]
        return last if is_there(last) else None

    return cluster.wait(what, decided)


def test_shadow_says_what_it_would_do_and_touches_no_pod(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    """Not even below the minimum, and not even when the last pod is gone."""
    name = deploy(minReplicas=1, maxReplicas=3)
    wait_ready(cluster, name, 1)
    [before] = pods(cluster, name)
    edit(cluster, name, mode="Shadow", minReplicas=2)
    would = wait_decision(cluster, name, "the minimum is seen", lambda last: last["to"] == 2)
    assert (would["from"], would["reason"]) == (1, "BelowMinimum")
    cluster.kubectl("delete", "pod", before["metadata"]["name"])
    wait_decision(cluster, name, "no pod is left", lambda last: last["from"] == 0)
    assert pods(cluster, name) == []
    edit(cluster, name, mode="Auto")
    wait_ready(cluster, name, 2)


def test_a_schedule_moves_the_bounds_and_is_named(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    always = {"name": "always", "start": "* * * * *", "end": "0 0 1 1 *", "timeZone": "Europe/Berlin", "minReplicas": 2}
    name = deploy(minReplicas=1, maxReplicas=2, schedules=[always])
    wait_ready(cluster, name, 2)
    assert "0 -> 2 replicas: minReplicas is 2 by schedule always" in [
        entry["message"] for entry in status(cluster, name)["decisions"]
    ]
    edit(cluster, name, schedules=None)
    wait_ready(cluster, name, 1)


@pytest.fixture
def budget(cluster: LocalCluster) -> Iterator[int]:
    """Two GPUs for the namespace of the tests."""
    upgrade(cluster, "--set", "gpuBudgets.default=2")
    yield 2
    upgrade(cluster)


def test_a_budget_stops_growth_and_takes_nothing_away(
    cluster: LocalCluster, deploy: Callable[..., str], budget: int
) -> None:
    name = deploy(minReplicas=1, maxReplicas=4, mode="External")
    cluster.kubectl("scale", f"infdep/{name}", "--replicas=4")

    def limited() -> dict[str, Any] | None:
        found = condition(cluster, name, "ScalingLimited")
        return found if found["reason"] == "OverBudget" else None

    said = cluster.wait("ScalingLimited=OverBudget", limited)
    assert said["message"] == f"4 replicas are wanted, {budget} are allowed"
    wait_ready(cluster, name, budget)
    assert len(pods(cluster, name)) == budget
    cluster.kubectl("scale", f"infdep/{name}", "--replicas=1")
    wait_ready(cluster, name, 1)
