"""The chart's rights against what the operator really asks for: none is missing, and none is there for nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import LocalCluster
from deployments import Body, condition, pods, status
from fault_proxy import FaultProxy, Right
from kubelet_free import ACCOUNT, chart, manifest
from operator_process import OperatorProcess

pytestmark = pytest.mark.cluster
NAME = "rights"
INSTANCE = f"app.kubernetes.io/instance={NAME}"
POOLS = Path(__file__).parents[1] / "support" / "foreign_crds" / "inferencepools.yaml"
PICKED = {"mode": "GatewayInferencePool", "endpointPicker": {"serviceName": "picker"}}
REVISIONS = 7  # more than the operator keeps records of


def granted(cluster: LocalCluster) -> set[Right]:
    """Every verb of every rule that the chart gives to the operator's account, and to nobody else."""
    bindings = chart(cluster, {"RoleBinding", "ClusterRoleBinding"})
    own = [body["roleRef"]["name"] for body in bindings if ACCOUNT in {s["name"] for s in body["subjects"]}]
    roles: list[Body] = [body for body in chart(cluster, {"Role", "ClusterRole"}) if body["metadata"]["name"] in own]
    return {
        Right(verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def is_settled(cluster: LocalCluster, replicas: int) -> bool:
    now, found = status(cluster, NAME), pods(cluster, NAME)
    generation = cluster.object("infdep", NAME)["metadata"]["generation"]
    revisions = {pod["metadata"]["labels"]["headrace.dev/revision"] for pod in found}
    return (
        now.get("observedGeneration") == generation
        and len(found) == now["readyReplicas"] == replicas
        and revisions == {now["revision"]}
    )


def routing_ready(cluster: LocalCluster) -> str:
    """What the condition says. Raises LookupError while it is not there, which a wait takes as "not yet"."""
    return str(condition(cluster, NAME, "RoutingReady")["message"])


def routes(cluster: LocalCluster) -> None:
    """From a Service to routers, to an InferencePool, and back."""
    cluster.apply(manifest(NAME, replicas=1, routing=PICKED))
    cluster.wait("it says that there are no pools", lambda: "install the CRDs" in routing_ready(cluster))
    assert status(cluster, NAME)["readyReplicas"] >= 1, "replicas serve all the same"
    cluster.wait("and are replaced all the same", lambda: is_settled(cluster, 1))
    cluster.kubectl("apply", "-f", str(POOLS))
    cluster.kubectl("wait", "--for=condition=Established", "-f", str(POOLS), "--timeout=300s")

    def of_routers() -> str:
        kinds = "deployments,services,serviceaccounts,rolebindings,poddisruptionbudgets"
        return cluster.kubectl("get", kinds, "-l", f"app.kubernetes.io/name=headrace-router,{INSTANCE}", "-o", "name")

    def pools() -> str:
        return cluster.kubectl("get", "inferencepools", "-o", "name")

    cluster.apply(manifest(NAME, replicas=1, routing={"mode": "Headrace"}))
    cluster.wait("all that routers need", lambda: len(of_routers().split()) == 5)
    cluster.apply(manifest(NAME, replicas=1, routing=PICKED))
    cluster.wait("a pool, and no routers", lambda: pools() and not of_routers())
    cluster.apply(manifest(NAME, replicas=1))
    cluster.wait("no pool", lambda: not pools())


def test_every_right_is_used_and_none_is_missing(
    cluster: LocalCluster, proxy: FaultProxy, start: Callable[..., OperatorProcess]
) -> None:
    start(proxy, interval=0.2)

    def goes_to(replicas: int, max_running: int) -> None:
        cluster.apply(manifest(NAME, replicas=replicas, batching={"maxRunning": max_running}))
        cluster.wait(f"{replicas} of {max_running}", lambda: is_settled(cluster, replicas))

    goes_to(2, 1)
    for _ in range(2):  # the same event twice is counted, not written anew
        cluster.kubectl("delete", "pod", pods(cluster, NAME)[0]["metadata"]["name"])
        cluster.wait("it is replaced", lambda: is_settled(cluster, 2))
    goes_to(1, 1)
    for number in range(REVISIONS):
        goes_to(1, 2 + number)
    routes(cluster)
    cluster.kubectl("delete", "infdep", NAME)
    cluster.wait("nothing is left", lambda: not pods(cluster, NAME))

    used, rights = proxy.used(), granted(cluster)
    refused = {call for call, status in proxy.calls if status == 403}
    assert refused == set()
    assert sorted(rights - set(used)) == [], "rights that nothing needs"
    assert not any(right.resource.startswith("secrets") for right in rights)
    assert not any(right.resource == "inferencedeployments" for right in used if right.verb not in {"list", "watch"})
