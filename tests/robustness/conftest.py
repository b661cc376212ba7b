"""One control plane for all tests of what happens when something fails: real API server, nodes that are only played."""

from collections.abc import Callable, Iterator

import pytest
from cluster import LocalCluster
from cluster.users import User
from fault_proxy import FaultProxy
from kubelet_free import account, kubelet_free, operator
from operator_process import OperatorProcess


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with kubelet_free(tmp_path_factory.mktemp("faults"), "--nodes=2", "--gpus=64") as (running, _):
        yield running


@pytest.fixture(scope="session")
def identity(cluster: LocalCluster) -> User:
    return account(cluster)


@pytest.fixture
def proxy(cluster: LocalCluster) -> Iterator[FaultProxy]:
    with FaultProxy(cluster) as running:
        yield running


@pytest.fixture
def start(cluster: LocalCluster, identity: User) -> Iterator[Callable[..., OperatorProcess]]:
    """An operator that reaches the API server through a proxy; it is gone when the test is over."""
    operators: list[OperatorProcess] = []

    def started(proxy: FaultProxy, name: str = "one", **settings: float) -> OperatorProcess:
        kubeconfig = proxy.kubeconfig(cluster.directory / f"{name}.kubeconfig", identity)
        operators.append(operator(cluster, kubeconfig, name, **settings))
        operators[-1].start()
        return operators[-1]

    try:
        yield started
    finally:
        for each in operators:
            each.kill()
    cluster.kubectl("delete", "lease", "headrace", "--ignore-not-found")
