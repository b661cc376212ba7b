"""What one does with a running cluster: kubectl, helm, reads, and the few objects every test needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import manifests
from cluster.api import Api
from cluster.commands import Commands, Manifest
from cluster.waiting import wait_until

TIMEOUT = 30.0  # seconds for the control plane to follow up on an object


class Client:
    """Acts as the cluster's admin. Whoever inherits sets both attributes when the cluster runs."""

    api: Api  # reads without starting a process: api.get("/api/v1/namespaces/default/pods")
    commands: Commands

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 60.0) -> str:
        """What kubectl prints. Raises CommandFailed, with its stderr."""
        return self.commands.kubectl(*arguments, stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str | Path, timeout: float = 120.0) -> str:
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
        self._found(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        self._found(f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")
        return name

    def volume(self, namespace: str, claim: str, path: Path, *, read_only: bool = True) -> None:
        """The folder `path` as a PersistentVolumeClaim, bound."""
        self.apply(*manifests.volume(namespace, claim, path, read_only=read_only))
        where = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"

        def bound() -> bool:
            return bool(self.api.get(where)["status"]["phase"] == "Bound")

        wait_until(f"{where} bound", bound, timeout=TIMEOUT, evidence=lambda: self.kubectl("get", "pv,pvc", "-A"))

    def cordon(self, node: str) -> None:
        self.kubectl("cordon", node)

    def uncordon(self, node: str) -> None:
        self.kubectl("uncordon", node)

    def _found(self, path: str) -> None:
        wait_until(path, lambda: self.api.get(path), timeout=TIMEOUT, evidence=lambda: self.kubectl("get", "events"))
