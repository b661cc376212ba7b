"""Deployments of one namespace share its GPUs, one decision after the other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace_operator.budgets import Budgets
from headrace_operator.decide.values import PodPhase, Role
from headrace_operator.service import InferenceDeployment, Resources
from headrace_operator.store import Store
from observations import NOW, deployment, observed, pod, scaling


def store(*names: str, namespace: str = "team", **status: Any) -> Store:
    known = Store(lambda key, asked: None)
    for index, name in enumerate(names):
        known.put_object(body(name, namespace, status, index + 1))
    return known


def body(name: str, namespace: str, status: Mapping[str, Any], version: int) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)},
        "spec": {"resources": {"gpus": 1}, "autoscaling": {"minReplicas": 2, "maxReplicas": 9}},
        "status": status,
    }


def given(name: str, *, gpus: int = 1, **policy: Any) -> InferenceDeployment:
    rules = scaling(**{"min_replicas": 2, **policy})
    return deployment(namespace="team", name=name, resources=Resources(gpus), scaling=rules)


def test_a_namespace_without_a_budget_has_no_cap() -> None:
    assert Budgets({"other": 3}, store("one")).cap(given("one"), observed(2), NOW) is None


def test_what_was_ordered_is_taken_before_its_pods_exist() -> None:
    budgets = Budgets({"team": 8}, store("one", "two"))
    assert budgets.cap(given("one"), observed(2), NOW) == 6  # two are owed to the other's minimum
    budgets.ordered(("team", "one"), 6)
    assert budgets.cap(given("two"), observed(0), NOW) == 2
    budgets.ordered(("team", "two"), 2)
    assert budgets.cap(given("one"), observed(2), NOW) == 6


def test_a_restarted_operator_gives_nothing_away_that_it_has_not_looked_at() -> None:
    assert Budgets({"team": 8}, store("one", "two", desiredReplicas=5)).cap(given("one"), observed(1), NOW) == 3


def test_pods_that_are_no_replicas_hold_gpus_too() -> None:
    drains = pod(8, routable=False, unrouted_at=NOW)
    budgets = Budgets({"team": 8}, store("one"))
    assert budgets.cap(given("one"), observed(2, drains), NOW) == 7
    assert budgets.cap(given("one", warm_standby=2), observed(2), NOW) == 6


def test_a_shadow_pod_holds_a_gpu_from_the_moment_at_which_it_is_ordered() -> None:
    shadow = pod(8, role=Role.SHADOW, routable=False)
    budgets = Budgets({"team": 8}, store("one", "two"))
    budgets.cap(given("one"), replace(observed(2), shadows=(shadow,)), NOW)
    assert budgets.cap(given("two"), observed(0), NOW) == 5
    budgets.ordered(("team", "one"), shadows=1)
    assert budgets.cap(given("two"), observed(0), NOW) == 4
    stopping = replace(shadow, phase=PodPhase.TERMINATING)
    assert budgets.cap(given("one"), replace(observed(2), shadows=(stopping,)), NOW) == 5


def test_a_deployment_that_is_gone_gives_its_gpus_back() -> None:
    known = store("one", "two")
    budgets = Budgets({"team": 8}, known)
    budgets.cap(given("two"), observed(5), NOW)
    assert budgets.cap(given("one"), observed(1), NOW) == 3
    known.put_object(body("two", "team", {}, 9), is_gone=True)
    budgets.forget(("team", "two"))
    assert budgets.cap(given("one"), observed(1), NOW) == 8


def test_another_namespace_is_another_budget() -> None:
    known = store("one")
    known.put_object(body("two", "elsewhere", {"desiredReplicas": 7}, 2))
    assert Budgets({"team": 8}, known).cap(given("one"), observed(1), NOW) == 8


def test_a_deployment_on_cpus_needs_no_budget() -> None:
    assert Budgets({"team": 8}, store("one")).cap(given("one", gpus=0), observed(1), NOW) is None


def test_the_last_place_is_given_to_one_standby_only() -> None:
    budgets = Budgets({"team": 5}, store("one", "two"))
    for name in ("one", "two"):
        budgets.cap(given(name, warm_standby=1), observed(2), NOW)
    assert budgets.standby_room(("team", "one")) == budgets.standby_room(("team", "two")) == 1
    budgets.ordered(("team", "one"), standby=1)
    assert budgets.standby_room(("team", "two")) == 0


def test_without_a_budget_there_is_room_for_any_standby() -> None:
    budgets = Budgets({}, store("one"))
    budgets.cap(given("one", warm_standby=1), observed(2), NOW)
    assert budgets.standby_room(("team", "one")) is None
