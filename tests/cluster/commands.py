"""kubectl and helm, pointed at one cluster and at nothing of the user's own."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.waiting import HANG

Manifest = Mapping[str, Any]


class CommandFailed(OSError):
    """A command ended with an error; `stderr` is what it said. A wait takes it as "not yet"."""

    def __init__(self, command: str, status: int, stderr: str) -> None:
        super().__init__(f"`{command}` ended with status {status}: {stderr.strip()}")
        self.status = status
        self.stderr = stderr


class Commands:
    def __init__(self, kubectl: Path, helm: Path, kubeconfig: Path) -> None:
        self._kubectl = kubectl
        self._helm = helm
        self._kubeconfig = kubeconfig
        # The user's own cache of API discovery would mix clusters that had the same address.
        self._cache = kubeconfig.with_name("kubectl-cache")

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with what a child process needs to reach the cluster: KUBECONFIG, and kubectl and helm on the PATH."""
        folders = dict.fromkeys(str(binary.parent) for binary in (self._kubectl, self._helm))
        path = [*folders, *filter(None, [base.get("PATH")])]
        return {**base, "PATH": ":".join(path), "KUBECONFIG": str(self._kubeconfig), "KUBECACHEDIR": str(self._cache)}

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, timeout: float = HANG) -> str:
        return self._run(self._kubectl, arguments, stdin, timeout)

    def helm(self, *arguments: str | Path, timeout: float = HANG) -> str:
        return self._run(self._helm, arguments, None, timeout)

    def apply(self, *manifests: Manifest | Path) -> str:
        """`kubectl apply`, strict: an unknown field is an error. Files, folders, or objects."""
        paths = [manifest for manifest in manifests if isinstance(manifest, Path)]
        objects = [manifest for manifest in manifests if not isinstance(manifest, Path)]
        files = [f"--filename={path}" for path in paths] + (["--filename=-"] if objects else [])
        # JSON: kubectl reads YAML 1.1, where an unquoted y is true.
        # One after the other: the fields of a List's items are checked by kubectl, with other words than the server's.
        stream = "\n".join(json.dumps(manifest) for manifest in objects)
        return self.kubectl("apply", "--validate=strict", *files, stdin=stream)

    def object(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ARGUMENTS -o json`, e.g. object("infdep", "chat", "-n", "demo")."""
        found = json.loads(self.kubectl("get", *arguments, "--output=json"))
        assert isinstance(found, dict), "kubectl prints one object or one list"
        return found

    def _run(self, program: Path, arguments: tuple[str | Path, ...], stdin: str | None, timeout: float) -> str:
        words = [str(argument) for argument in arguments]
        try:
            done = subprocess.run(
                ["env", f"KUBECONFIG={self._kubeconfig}", f"KUBECACHEDIR={self._cache}", program, *words],
                input=stdin or "", capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")
            raise CommandFailed(f"{program.name} {' '.join(words)}", -1, f"not done in {timeout:g} s\n{said}") from None
        if done.returncode != 0:
            raise CommandFailed(f"{program.name} {' '.join(words)}", done.returncode, done.stderr or done.stdout)
        return done.stdout
