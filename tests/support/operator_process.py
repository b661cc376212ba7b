"""`headrace operator` as a real process outside the cluster, to be stopped, killed and started again."""

import os
import signal
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
from cluster.processes import Program

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
        command = [
            str(HEADRACE), "operator", f"--kubeconfig={kubeconfig}", f"--identity={identity}", "--all-namespaces",
            "--watch-nodes", "--lease-namespace=default", "--server-image=headrace-server:test",
            "--router-image=headrace-router:test",
            f"--interval={interval}", f"--host={address}", f"--http-port={port}", *more,
        ]  # fmt: skip
        self._url = f"http://{address}:{port}"
        self._program = Program(f"operator {identity}", command, log, grace=20.0)
        self._is_started = False

    def start(self) -> None:
        self._program.start()
        self._is_started = True

    @property
    def pid(self) -> int:
        """Raises LookupError when it does not run."""
        return self._program.pid

    @property
    def is_running(self) -> bool:
        return self._is_started and self._program.status() is None

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._program.status()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, also of one that is stopped; returns when it is gone."""
        with suppress(LookupError):
            self.send(signal.SIGKILL)
        self._program.stop()
        self._is_started = False

    def end(self) -> None:
        """SIGTERM; returns when it is gone."""
        self._program.stop()
        self._is_started = False

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def processor_seconds(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def metrics(self) -> str:
        """Raises OSError while it does not answer, which a wait takes as "not yet"."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    @property
    def leads(self) -> bool:
        return "headrace_operator_is_leader 1.0" in self.metrics()

    def log(self) -> str:
        return self._log.read_text(errors="replace")
