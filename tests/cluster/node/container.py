"""One container as a local process: started, probed, restarted with back-off, and never left behind."""

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.node.backoff import Backoff
from cluster.node.clock import timestamp
from cluster.node.probes import Place, watch
from cluster.node.status import ContainerState

Body = Mapping[str, Any]
PR_SET_PDEATHSIG = 1
MESSAGE_BYTES = 4096  # of a termination message, as a kubelet's limit
Say = Callable[[str, str, bool], None]  # (reason, message, is a warning): a Kubernetes event


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything needed to start one container, worked out beforehand."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    directory: Path  # where it starts
    log: Path
    termination_log: Path


@dataclass(slots=True)
class Container:
    """`changed` is called after every change of `state`."""

    spec: Body
    state: ContainerState
    policy: str  # restartPolicy: Always, OnFailure, Never
    changed: Callable[[], None]
    say: Say
    start_delay: float  # s, a rehearsed cold start
    process: asyncio.subprocess.Process | None = None

    async def run(self, launch: Launch, place: Place) -> None:
        """Until it has ended for good."""
        backoff = Backoff()
        while True:
            await asyncio.sleep(self.start_delay)
            ran = await self._once(launch, place)
            status = self.state.terminated["exitCode"] if self.state.terminated else 0
            if self.policy == "Never" or (self.policy == "OnFailure" and status == 0):
                self.state.is_final = True
                self.changed()
                return
            backoff = backoff.after_run(ran)
            self._wait_for_restart(backoff)
            await asyncio.sleep(backoff.delay)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL to everything it started after `grace` seconds."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        _signal(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self.say("Killing", f"container {self.state.name} did not end within {grace:g} s", True)
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def _once(self, launch: Launch, place: Place) -> float:
        """One run of the process; returns its seconds."""
        launch.termination_log.write_text("")
        if launch.log.exists():
            launch.log.replace(launch.log.with_suffix(".previous"))
        started, began = timestamp(), time.monotonic()
        try:
            with launch.log.open("wb") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *launch.command, env=dict(launch.env), cwd=launch.directory, stdin=asyncio.subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent,
                )  # fmt: skip
        except OSError as error:
            self._ended(128, started, f"cannot start {launch.command[0]}: {error}", "StartError")
            return 0.0
        self._running(started)
        probes = asyncio.create_task(self._probe(place))
        try:
            status = await self.process.wait()
        finally:  # also when cancelled: the pod goes, and whoever cancelled us stops the process with grace
            probes.cancel()
            await asyncio.gather(probes, return_exceptions=True)
        _signal_group(self.process.pid, signal.SIGKILL)
        code = status if status >= 0 else 128 - status
        self._ended(code, started, self._message(launch, code), "Completed" if code == 0 else "Error")
        return time.monotonic() - began

    def note_end(self, launch: Launch) -> None:
        """After `stop`: the state that the API shows last."""
        if self.process is None or self.process.returncode is None or self.state.terminated:
            return
        status = self.process.returncode
        code = status if status >= 0 else 128 - status
        since = self.state.running["startedAt"] if self.state.running else timestamp()
        self.state.is_final = True
        self._ended(code, since, self._message(launch, code), "Completed" if code == 0 else "Error")

    def _running(self, started: str) -> None:
        state = self.state
        state.waiting, state.terminated = None, None
        state.running = {"startedAt": started}
        state.started = "startupProbe" not in self.spec
        state.ready = state.started and "readinessProbe" not in self.spec
        self.say("Started", f"container {state.name} started", False)
        self.changed()

    def _ended(self, code: int, started: str, message: str, reason: str) -> None:
        state = self.state
        state.running, state.started, state.ready = None, False, False
        state.terminated = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": timestamp()}
        if message:
            state.terminated["message"] = message
        self.changed()

    def _wait_for_restart(self, backoff: Backoff) -> None:
        state = self.state
        state.last, state.terminated = state.terminated, None
        state.restarts += 1
        if backoff.delay:
            message = f"back-off {backoff.delay:g}s restarting failed container={state.name}"
            state.waiting = {"reason": "CrashLoopBackOff", "message": message}
            self.say("BackOff", message, True)
        else:
            state.waiting = {"reason": "ContainerCreating"}
        self.changed()

    def _message(self, launch: Launch, code: int) -> str:
        text = launch.termination_log.read_text(errors="replace")[:MESSAGE_BYTES]
        if not text and code != 0 and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            text = launch.log.read_text(errors="replace")[-2048:]
        return text

    async def _probe(self, place: Place) -> None:
        if "startupProbe" in self.spec:
            passed = asyncio.get_running_loop().create_future()

            def startup(is_good: bool, why: str) -> None:
                if not passed.done():
                    passed.set_result(is_good)
                if not is_good:
                    self._unhealthy("Startup", why)

            asking = asyncio.create_task(watch(self.spec["startupProbe"], place, startup))
            try:
                if not await passed:
                    return
            finally:
                asking.cancel()
        self.state.started = True
        self.state.ready = "readinessProbe" not in self.spec
        self.changed()
        async with asyncio.TaskGroup() as group:
            if "readinessProbe" in self.spec:
                group.create_task(watch(self.spec["readinessProbe"], place, self._readiness))
            if "livenessProbe" in self.spec:
                group.create_task(watch(self.spec["livenessProbe"], place, self._liveness))

    def _readiness(self, is_good: bool, why: str) -> None:
        if not is_good and self.state.ready:
            self.say("Unhealthy", f"Readiness probe failed: {why}", True)
        self.state.ready = is_good
        self.changed()

    def _liveness(self, is_good: bool, why: str) -> None:
        if not is_good:
            self._unhealthy("Liveness", why)

    def _unhealthy(self, kind: str, why: str) -> None:
        self.say("Unhealthy", f"{kind} probe failed: {why}; container {self.state.name} is restarted", True)
        if self.process and self.process.returncode is None:
            _signal_group(self.process.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int, number: signal.Signals) -> None:
    """To the whole session that the container's process leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
