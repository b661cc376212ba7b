"""One side in its own fresh process, from exec to exit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from comparison.wire import Answers, Settings, Work, answers_from, now

HERE = Path(__file__).parent
LEAVING = 20.0  # s that a side gets to leave by itself
TOLD = 15  # lines of its log that are shown when it breaks


@dataclass(frozen=True, slots=True)
class Command:
    name: str  # in the result
    python: str
    module: str
    arguments: tuple[str, ...] = ()


class SideBroken(Exception):
    """The side ended instead of answering."""


class SideProcess:
    """Use as a context manager; leaving it ends the process and all that it started.

    It is stopped while it is not its turn: what waits for work may spin, and would slow the others.
    """

    def __init__(self, command: Command, settings: Settings, logs: Path, environment: Mapping[str, str]) -> None:
        self.name = command.name
        self._log = logs / f"{command.name}.log"
        self._began = now()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [command.python, "-m", command.module, json.dumps(asdict(settings)), *command.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=HERE.parent,
                env={**environment, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
                text=True,
                start_new_session=True,
            )

    def answer(self, work: Work) -> Answers:
        """Raises SideBroken."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._send(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(asdict(work)) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            status = self._process.wait()
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-TOLD:])
            raise SideBroken(f"{self.name} ended with status {status} instead of answering; its log ends:\n{last}")
        self._send(signal.SIGSTOP)
        return answers_from(json.loads(reply))

    def first_token(self, prompt: tuple[int, ...]) -> float:
        """Seconds from exec to the first token that it ever chose."""
        return self.answer(Work((prompt,), output_tokens=1)).ended - self._began

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._send(signal.SIGCONT)
        try:
            self._process.stdin.close()
            self._process.wait(LEAVING)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            sys.stderr.write(f"{self.name} did not leave by itself and is ended\n")
        self._process.stdout.close()
        self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        """To it and all that it started."""
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, number)
