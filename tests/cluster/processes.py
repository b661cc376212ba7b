"""One program of the cluster: guarded, with a log file, gone when its owner is gone."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from cluster.waiting import HANG, tail, wait_until

PACKAGES = Path(__file__).parents[1]  # where the package `cluster` lies
GUARD = Path(__file__).with_name("guard.py")


class ProgramEnded(RuntimeError):
    """A program that should be running has ended; the message holds the last lines of its log."""


class Program:
    """A command that runs until `stop`, until its owner's process ends in whatever way, or until it ends itself."""

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, *, grace: float = 0.0, held: Sequence[int] = ()
    ) -> None:
        """`grace`: seconds between SIGTERM and SIGKILL. `held`: file descriptors (locks) to keep open while it runs."""
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._grace = grace
        self._held = tuple(held)
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._guard is None, f"{self.name} is started twice"
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(self._grace), *self._command],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, pass_fds=self._held,
                start_new_session=True,  # Ctrl-C in the terminal is for the owner, who stops us in order
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The program's own process id, for signals such as SIGSTOP. Raises LookupError when it does not run."""
        running = psutil.Process(self._guard.pid).children() if self._guard and self._guard.poll() is None else []
        if not running:
            raise LookupError(f"{self.name} does not run")
        return int(running[0].pid)

    def status(self) -> int | None:
        """The exit status, or None while it runs (or was not started)."""
        return self._guard.poll() if self._guard else None

    def wait_ready(self, what: str, probe: Callable[[], object], timeout: float) -> None:
        """Raises DeadlineMissed, or ProgramEnded at once when the program ends instead."""

        def ready_or_ended() -> object:
            if (status := self.status()) is not None:
                raise ProgramEnded(f"{self.name} ended with status {status} before {what}\n{tail(self.log)}")
            return probe()

        wait_until(f"{self.name}: {what}", ready_or_ended, timeout=timeout, evidence=lambda: tail(self.log))

    def ask_to_stop(self) -> None:
        if self._guard and self._guard.stdin:
            self._guard.stdin.close()

    def stop(self) -> None:
        """Ends the program and everything it started; returns when all of it is gone."""
        if self._guard is None:
            return
        self.ask_to_stop()
        try:
            self._guard.wait(self._grace + HANG)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{self.name}: its guard does not end\n{tail(self.log)}") from error
        self._guard = None


def stop_all(programs: Sequence[Program]) -> None:
    """All at once, so that the slowest decides how long it takes."""
    for program in programs:
        program.ask_to_stop()
    for program in programs:
        program.stop()
