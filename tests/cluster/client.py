"""What one does with a running cluster: kubectl, helm, reads, and the few objects every test needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cluster import manifests, running
from cluster.api import Api
from cluster.commands import Commands, Manifest
from cluster.evidence import evidence
from cluster.running import Running
from cluster.waiting import HANG, wait_until

T = TypeVar("T")


class Client:
    """Acts as the cluster's admin. LocalCluster is one; `attach` makes one for a cluster of another process."""

    directory: Path
    kubeconfig: Path
    api: Api  # reads without starting a process: api.get("/api/v1/namespaces/default/pods")
    commands: Commands

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout: float = HANG) -> str:
        """What kubectl prints. Raises CommandFailed, with its stderr."""
        return self.commands.kubectl(*arguments, stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str | Path, timeout: float = HANG) -> str:
        """What helm prints. Raises CommandFailed, with its stderr."""
        return self.commands.helm(*arguments, timeout=timeout)

    def apply(self, *manifests: Manifest | Path) -> str:
        """`kubectl apply` of files, folders or objects, unknown fields refused. Raises CommandFailed."""
        return self.commands.apply(*manifests)

    def object(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ARGUMENTS -o json` as a dict. Raises CommandFailed."""
        return self.commands.object(*arguments)

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """An environment for child processes: `base`, KUBECONFIG, and kubectl and helm first on the PATH."""
        return self.commands.environment(base or {})

    def logs(self, namespace: str, pod: str, *options: str) -> str:
        """A pod's log, e.g. logs("demo", "chat-0", "--container=server", "--previous"). Raises CommandFailed."""
        return self.kubectl("logs", "--namespace", namespace, pod, *options)

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """The namespace's Pods, terminating ones included."""
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)["items"]
        assert isinstance(found, list)
        return found

    def namespace(self, name: str) -> str:
        """A new namespace in which Pods can be created. Returns its name."""
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        # Without the namespace's default ServiceAccount a Pod is refused; its CA is mounted into every Pod.
        where = f"/api/v1/namespaces/{name}"
        self.wait(f"{name}'s ServiceAccount", lambda: self.api.get(f"{where}/serviceaccounts/default"))
        self.wait(f"{name}'s CA", lambda: self.api.get(f"{where}/configmaps/kube-root-ca.crt"))
        return name

    def volume(self, namespace: str, claim: str, path: Path, *, read_only: bool = True) -> None:
        """The folder `path` as a PersistentVolumeClaim, bound."""
        self.apply(*manifests.volume(namespace, claim, path, read_only=read_only))
        where = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
        self.wait(f"claim {namespace}/{claim} bound", lambda: self.api.get(where)["status"]["phase"] == "Bound")

    def cordon(self, node: str) -> None:
        self.kubectl("cordon", node)

    def uncordon(self, node: str) -> None:
        self.kubectl("uncordon", node)

    def wait(self, what: str, probe: Callable[[], T], *, timeout: float = HANG, interval: float = 0.1) -> T:
        """The first truthy answer of `probe`, asked every `interval` seconds.

        LookupError, OSError and CommandFailed from the probe mean "not yet"; anything else propagates.
        Raises DeadlineMissed with pods, events and log ends; ProgramEnded as soon as a part of the cluster ends.
        """

        def probe_a_living_cluster() -> T:
            self.check_alive()
            return probe()

        return wait_until(what, probe_a_living_cluster, timeout=timeout, evidence=self.evidence, interval=interval)

    def check_alive(self) -> None:
        """Raises LookupError when the cluster's directory is not in use: nothing of it runs."""
        running.owner(self.directory)

    def evidence(self) -> str:
        """Pods, events and the ends of all logs, for an error message."""
        logs = [*self.directory.glob("control-plane/*.log"), *self.directory.glob("nodes/*/agent.log")]
        return evidence(self.api, sorted(logs))


def attach(directory: Path) -> Client:
    """A client of the cluster that runs in `directory`. Raises LookupError when none is ready there."""
    found = Running.load(directory)
    client = Client()
    client.directory = directory.resolve()
    client.kubeconfig = Path(found.kubeconfig)
    client.api = Api.from_kubeconfig(client.kubeconfig)
    client.commands = Commands(Path(found.kubectl), Path(found.helm), client.kubeconfig)
    return client
