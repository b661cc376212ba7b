"""`headrace operator` as a real process outside the cluster, to be stopped, killed and started again."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

HEADRACE = Path(sys.executable).parent / "headrace"


class OperatorProcess:
    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        identity: str,
        address: str,
        port: int,
        interval: float,
        more: tuple[str, ...],
    ) -> None:
        """`interval` in seconds; `address` and `port` of its /metrics."""
        self._log = log
        self._command = [
            str(HEADRACE), "operator", f"--kubeconfig={kubeconfig}", f"--identity={identity}", "--all-namespaces",
            "--watch-nodes", "--lease-namespace=default", "--server-image=headrace-server:test",
            f"--interval={interval}", f"--host={address}", f"--http-port={port}", *more,
        ]  # fmt: skip
        self._url = f"http://{address}:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        assert self._process, "it was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process, "it was not started"
        self._process.terminate()
        return self._process.wait(30)

    def revive(self) -> bool:
        """What a kubelet does. True when it had ended."""
        if self.is_running:
            return False
        self.start()
        return True

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def processor_seconds(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def metrics(self) -> str:
        """Raises OSError while it does not answer, which a wait takes as "not yet"."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    @property
    def leads(self) -> bool:
        return "headrace_operator_is_leader 1.0" in self.metrics()

    def log(self) -> str:
        return self._log.read_text(errors="replace")
