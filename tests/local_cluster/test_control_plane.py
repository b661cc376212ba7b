"""The control plane is a real one, belongs to one owner, and shares a machine with others of its kind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Client, CommandFailed, DeadlineMissed, LocalCluster, ProgramEnded, attach
from cluster.addresses import Share, claim_share
from cluster.api import Api, ApiError
from cluster.binaries import ensure
from cluster.control_plane import ControlPlane
from cluster.processes import PACKAGES
from cluster.running import DirectoryInUse, is_locked
from cluster.waiting import HANG, wait_until

pytestmark = pytest.mark.cluster

LAKES: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "lakes.test.headrace.dev"},
    "spec": {
        "group": "test.headrace.dev",
        "scope": "Namespaced",
        "names": {"kind": "Lake", "plural": "lakes"},
        "versions": [{
            "name": "v1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                "type": "object",
                "properties": {"min": {"type": "integer", "default": 1}, "max": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min may not exceed max"}],
            }}}},
        }],
    },
}  # fmt: skip


def lake(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "test.headrace.dev/v1",
        "kind": "Lake",
        "metadata": {"name": "como", "namespace": "default"},
        "spec": spec,
    }


def pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "anything"}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=()) as running:
        yield running


@pytest.fixture
def with_lakes(cluster: LocalCluster) -> LocalCluster:
    cluster.apply(LAKES)
    cluster.kubectl("wait", "--for=condition=Established", "crd/lakes.test.headrace.dev")
    return cluster


def test_it_is_ready_and_every_program_has_one_version(cluster: LocalCluster) -> None:
    assert cluster.api.text("/readyz") == "ok"
    version = cluster.api.get("/version")["gitVersion"]
    assert f"Client Version: {version}" in cluster.kubectl("version")
    assert [program.name for program in cluster.programs] == [
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
    ]  # fmt: skip


def test_a_custom_resource_is_defaulted_and_validated(with_lakes: LocalCluster) -> None:
    with_lakes.apply(lake(max=3))
    assert with_lakes.object("lake", "como")["spec"] == {"min": 1, "max": 3}
    with pytest.raises(CommandFailed, match="min may not exceed max"):
        with_lakes.apply(lake(min=4, max=3))
    with pytest.raises(CommandFailed, match=r'unknown field "spec\.depth"'):
        with_lakes.apply(lake(max=3, depth=400))


def test_what_an_owner_leaves_behind_is_collected(cluster: LocalCluster) -> None:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "default"}}
    cluster.apply(settings)
    uid = cluster.object("configmap", "owner")["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    cluster.apply({**settings, "metadata": {"name": "owned", "namespace": "default", "ownerReferences": [reference]}})
    cluster.kubectl("delete", "configmap", "owner")

    def collected() -> bool:
        left = cluster.api.get("/api/v1/namespaces/default/configmaps")["items"]
        return "owned" not in [each["metadata"]["name"] for each in left]

    cluster.wait("the garbage collector", collected)


def test_an_unknown_token_is_turned_away(cluster: LocalCluster) -> None:
    ca = (cluster.directory / "control-plane" / "ca.crt").read_text()
    with pytest.raises(ApiError) as refused:
        Api(cluster.api.server, ca, "not-a-token").get("/api/v1/namespaces")
    assert refused.value.status == 401


def test_a_service_account_may_do_nothing_until_a_role_says_so(cluster: LocalCluster) -> None:
    token = cluster.kubectl("create", "token", "default").strip()
    ca = (cluster.directory / "control-plane" / "ca.crt").read_text()
    with pytest.raises(ApiError, match="cannot list resource") as refused:
        Api(cluster.api.server, ca, token).get("/api/v1/namespaces/default/pods")
    assert refused.value.status == 403


def test_the_files_with_secrets_are_for_their_owner_only(cluster: LocalCluster) -> None:
    secret = [
        cluster.kubeconfig,
        *(cluster.directory / "control-plane" / name for name in ("tokens.csv", "tokens.key")),
    ]
    assert {file.stat().st_mode & 0o777 for file in secret} == {0o600}


def test_a_child_process_gets_what_it_needs_from_the_environment(cluster: LocalCluster) -> None:
    environment = cluster.env({"PATH": "/usr/bin:/bin", "KEPT": "yes"})
    words = ["sh", "-c", "kubectl get namespace default -o name && helm list -q && echo $KEPT"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["namespace/default", "yes"]


def test_a_folder_becomes_a_bound_claim(cluster: LocalCluster, tmp_path: Path) -> None:
    namespace = cluster.namespace("with-a-volume")
    cluster.volume(namespace, "models", tmp_path)
    claim = cluster.object("pvc", "models", "-n", namespace)
    volume = cluster.object("pv", claim["spec"]["volumeName"])
    assert volume["spec"]["hostPath"]["path"] == str(tmp_path)


def test_a_missed_deadline_shows_pods_events_and_logs(cluster: LocalCluster) -> None:
    cluster.apply(pod("homeless"))
    cluster.wait("the scheduler's verdict", lambda: cluster.pods("default")[0]["status"]["conditions"])
    with pytest.raises(DeadlineMissed) as missed:
        cluster.wait("a running pod", lambda: cluster.pods("default")[0]["status"]["phase"] == "Running", timeout=0.2)
    message = str(missed.value)
    assert "a running pod: not within 0.2 s; last seen: False" in message
    assert "default/homeless  Pending" in message
    assert "no nodes available to schedule pods" in message
    for program in cluster.programs:
        _, heading, shown = message.partition(f"--- last lines of {program.log}\n")
        assert heading
        assert shown.splitlines()[0] in program.log.read_text()


def test_a_directory_holds_one_cluster_at_a_time(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.running.LEFTOVERS_END", 0.0)
    with pytest.raises(DirectoryInUse, match="is used by another cluster"):
        LocalCluster(cluster.directory, nodes=()).start()


def test_another_process_attaches_to_it(cluster: LocalCluster, tmp_path: Path) -> None:
    guest = attach(cluster.directory)
    assert type(guest) is Client
    assert guest.kubectl("get", "namespaces", "-o", "name") == cluster.kubectl("get", "namespaces", "-o", "name")
    with pytest.raises(LookupError, match="no local cluster is ready"):
        attach(tmp_path)


def test_two_clusters_run_side_by_side_and_one_ends_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "neighbour", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    }
    with LocalCluster(tmp_path, nodes=()) as other:
        for each in (cluster, other):
            each.apply(service)
        ours, theirs = (each.object("service", "neighbour")["spec"]["clusterIP"] for each in (cluster, other))
        assert ours.split(".")[:2] != theirs.split(".")[:2]
        assert other.api.server.split(":")[1] != cluster.api.server.split(":")[1]

        other.program("kube-apiserver").stop()
        with pytest.raises(OSError, match="refused"):
            other.api.text("/readyz")
        other.program("kube-apiserver").start()
        neighbour = "/api/v1/namespaces/default/services/neighbour"
        assert other.wait("the restart", lambda: other.api.get(neighbour))["spec"]["clusterIP"] == theirs

        # A wait notices a part that died, instead of the deadline.
        os.kill(other.program("kube-scheduler").pid, signal.SIGKILL)
        with pytest.raises(ProgramEnded, match="kube-scheduler ended with status 137"):
            other.wait("what cannot happen", lambda: False, timeout=HANG)
    assert cluster.api.text("/readyz") == "ok"
    cluster.check_alive()


@dataclass(frozen=True, slots=True)
class OnceTaken(Share):
    """The first ports that it offers are lost to somebody else before they are used."""

    taken: list[socket.socket]

    def free_ports(self, count: int) -> list[int]:
        ports = Share.free_ports(self, count)
        if not self.taken:
            self.taken.append(socket.create_server((str(self.control_plane), ports[0])))
        return ports


def test_a_port_that_was_lost_in_a_race_is_replaced(tmp_path: Path) -> None:
    share = claim_share()
    racing = OnceTaken(share.number, share.claim, [])
    plane = ControlPlane(tmp_path, ensure(print), racing, timeout=HANG)
    plane.start()
    assert plane.api.text("/readyz") == "ok"
    assert "address already in use" in (tmp_path / "etcd.log").read_text()
    plane.stop()
    for each in (share.claim, *racing.taken):
        each.close()


def by_hand(directory: Path, *words: str) -> list[str]:
    return ["env", f"PYTHONPATH={PACKAGES}", sys.executable, "-m", "cluster", "--directory", str(directory), *words]


def test_killing_the_owner_leaves_no_process_and_a_free_directory(tmp_path: Path) -> None:
    with subprocess.Popen(by_hand(tmp_path, "up", "--nodes", "0"), stdout=subprocess.DEVNULL) as owner:
        wait_until("the cluster", lambda: attach(tmp_path), timeout=HANG, evidence=str)
        family = psutil.Process(owner.pid).children(recursive=True)
        assert {"etcd", "kube-apiserver", "kube-scheduler"} <= {Path(each.cmdline()[0]).name for each in family}
        owner.kill()

        def left() -> list[psutil.Process]:
            return [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

        wait_until("the end of its processes", lambda: not left(), timeout=HANG, evidence=lambda: str(left()))
    assert not is_locked(tmp_path)


def test_a_cluster_is_kept_by_hand(tmp_path: Path) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(by_hand(tmp_path, *words), capture_output=True, text=True, timeout=HANG, check=False)

    started = run("up", "--nodes", "0", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"export KUBECONFIG={tmp_path}/kubeconfig" in started.stdout
    assert started.stdout.rstrip().endswith("down"), "its last words"
    assert "export KUBECONFIG=" in run("env").stdout
    assert attach(tmp_path).api.server in run("status").stdout
    missing = run("logs", "nobody")
    assert missing.returncode == 1
    assert 'pods "nobody" not found' in missing.stderr
    again = run("up", "--nodes", "0", "--detach")
    assert again.returncode == 1
    assert "is used by another cluster" in again.stderr
    stopped = run("down")
    assert stopped.returncode == 0, stopped.stderr
    assert not is_locked(tmp_path)
    assert "no local cluster runs" in run("down").stderr
