"""What fails between the operator and the API server, and how soon it is as if nothing had failed."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from cluster import LocalCluster
from cluster.waiting import HANG, wait_until
from deployments import Body, pods, status
from fault_proxy import FaultProxy, Faults
from kubelet_free import manifest
from operator_process import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]


@pytest.fixture
def name(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of an InferenceDeployment that is gone, with its pods, when the test is over."""
    chosen = request.node.name.removeprefix("test_").replace("_", "-")[:30].rstrip("-")
    yield chosen
    cluster.kubectl("delete", "infdep", chosen, "--ignore-not-found")
    cluster.wait(f"pods of {chosen} gone", lambda: not pods(cluster, chosen))


def is_settled(cluster: LocalCluster, name: str, replicas: int) -> bool:
    """As many pods as status says and the manifest asks for, all of them Ready, none going."""
    now = status(cluster, name)
    return (
        len(pods(cluster, name)) == now.get("readyReplicas") == now.get("replicas") == replicas
        and now["observedGeneration"] == cluster.object("infdep", name)["metadata"]["generation"]
    )


def settled(cluster: LocalCluster, name: str, replicas: int) -> None:
    cluster.wait(f"{replicas} of {name}", lambda: is_settled(cluster, name, replicas))


def lease(cluster: LocalCluster) -> Body:
    found: Body = cluster.object("lease", "headrace")["spec"]
    return found


def assert_no_orphans(cluster: LocalCluster, name: str) -> None:
    uid = cluster.object("infdep", name)["metadata"]["uid"]
    found: list[Body] = pods(cluster, name)
    ordinals = [pod["metadata"]["labels"]["headrace.dev/ordinal"] for pod in found]
    assert len(set(ordinals)) == len(ordinals), ordinals
    for pod in found:
        assert [owner["uid"] for owner in pod["metadata"]["ownerReferences"]] == [uid]


def test_a_third_of_all_calls_fail(cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str) -> None:
    proxy.switches.faults = Faults(throttled=0.1, failing=0.1, lost=0.05, unanswered=0.05)
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=3))
    settled(cluster, name, 3)
    cluster.apply(manifest(name, replicas=1))
    settled(cluster, name, 1)
    assert_no_orphans(cluster, name)
    assert operator.is_running
    assert sum(status == 0 for _, status in proxy.calls) > len(proxy.calls) / 10, "there were faults"
    told = operator.metrics()
    for code in (0, 200, 429):
        assert re.search(rf'headrace_operator_api_requests_total{{code="{code}",.*}} [1-9]', told), code


def test_watches_that_fall_silent(cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str) -> None:
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=1))
    settled(cluster, name, 1)
    proxy.switches.silent_watches = True
    cluster.apply(manifest(name, replicas=2))
    settled(cluster, name, 2)
    assert re.search(r'list_repairs_total{resource="pods"} [1-9]', operator.metrics()), "what the alert reads"


def test_a_connection_that_went_half_open(cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str) -> None:
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=1))
    settled(cluster, name, 1)
    proxy.switches.half_open = True
    cluster.wait("it knows that it may not write", lambda: not operator.leads)
    cluster.apply(manifest(name, replicas=2))
    proxy.switches.half_open = False
    settled(cluster, name, 2)
    assert operator.is_running, "an outage ends no process"


def test_an_api_server_that_restarts(cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str) -> None:
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=2))
    settled(cluster, name, 2)
    before = {pod["metadata"]["uid"] for pod in pods(cluster, name)}
    server = cluster.program("kube-apiserver")
    server.stop()
    wait_until("it knows that it may not write", lambda: not operator.leads, timeout=HANG, evidence=operator.log)
    server.start()
    server.wait_ready("/readyz", lambda: cluster.api.text("/readyz") == "ok", HANG)
    cluster.apply(manifest(name, replicas=3))
    settled(cluster, name, 3)
    assert before <= {pod["metadata"]["uid"] for pod in pods(cluster, name)}, "no pod was lost"
    assert operator.is_running


def test_a_leader_that_is_killed_is_replaced(cluster: LocalCluster, start: Start, name: str) -> None:
    with FaultProxy(cluster) as of_first, FaultProxy(cluster) as of_second:
        first = start(of_first, "first")
        cluster.wait("the first leads", lambda: first.leads)
        second = start(of_second, "second")
        cluster.apply(manifest(name, replicas=1))
        settled(cluster, name, 1)
        before = lease(cluster)
        first.kill()
        cluster.wait("the second leads", lambda: second.leads)
        after = lease(cluster)
        assert before["leaseDurationSeconds"] == 10, "a standby takes over then, and looks every second"
        assert after["leaseTransitions"] == before["leaseTransitions"] + 1
        cluster.apply(manifest(name, replicas=2))
        settled(cluster, name, 2)


def test_a_leader_that_was_stopped_writes_nothing_when_it_wakes(cluster: LocalCluster, start: Start, name: str) -> None:
    with FaultProxy(cluster) as of_first, FaultProxy(cluster) as of_second:
        first = start(of_first, "first")
        cluster.wait("the first leads", lambda: first.leads)
        second = start(of_second, "second")
        cluster.apply(manifest(name, replicas=1))
        settled(cluster, name, 1)
        os.kill(first.pid, signal.SIGSTOP)
        cluster.wait("the second leads", lambda: second.leads)
        cluster.apply(manifest(name, replicas=3))  # what the first would love to do
        settled(cluster, name, 3)
        wakes = len(of_first.calls)
        first.send(signal.SIGCONT)
        cluster.wait("it knows", lambda: not first.leads)
        time.sleep(3)
        assert f'name="{name}"' not in first.metrics(), (
            "one operator tells of a deployment, and what it was is not told"
        )
        assert f'name="{name}"' in second.metrics()
        assert of_first.writes(since=wakes) == []
        assert second.leads
        assert is_settled(cluster, name, 3)
        second.end()
        cluster.wait("the first leads again", lambda: first.leads)


def test_watches_that_will_never_hear_again_end_the_process(
    cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str
) -> None:
    """Credentials that are refused for good: to go on with what was seen last would be to decide blindly."""
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=1))
    settled(cluster, name, 1)
    proxy.switches.unauthorized = True
    cluster.kubectl("annotate", "infdep", name, "example.com/word=1")  # the next word of the watch
    cluster.wait("the process ends", lambda: not operator.is_running)
    assert operator.exit_status == 1
    assert "WatchesEnded" in operator.log()
    proxy.switches.unauthorized = False
    operator.kill()
    operator.start()  # as the kubelet does
    cluster.apply(manifest(name, replicas=2))
    settled(cluster, name, 2)


def test_nothing_holds_up_a_deletion_when_the_operator_is_gone(
    cluster: LocalCluster, proxy: FaultProxy, start: Start, name: str
) -> None:
    operator = start(proxy)
    cluster.apply(manifest(name, replicas=2))
    settled(cluster, name, 2)
    operator.end()
    assert "finalizers" not in cluster.object("infdep", name)["metadata"]
    cluster.kubectl("delete", "infdep", name)  # waits until it is gone
    cluster.wait("its pods are gone", lambda: not pods(cluster, name))
