"""`headrace serve` as a real process, on ports that it picks itself."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from listening import PATIENCE, Listening, listening

__all__ = ["HEADRACE", "NAME", "PATIENCE", "ServedProcess", "environment", "refused", "serve_command", "served"]

HEADRACE = Path(sys.executable).parent / "headrace"
NAME = "tiny"
ADMIN = re.compile(r"metrics and drain: (\S+)")


class ServedProcess(Listening):
    __slots__ = ()

    @property
    def admin(self) -> str:
        """Where it answers /metrics and /drain: the same as `http` without --admin-port."""
        return self.said(ADMIN)

    async def until_ready(self) -> None:
        await self.until_answered(f"http://{self.http}/ready")


def serve_command(model: Path, *flags: str) -> list[str]:
    fixed = ["--host=127.0.0.1", "--grpc-port=0", "--http-port=0", "--device=cpu", "--dtype=float32"]
    return [str(HEADRACE), "serve", f"--model={model}", f"--name={NAME}", *fixed, *flags]


def environment(**more: str) -> dict[str, str]:
    # One thread: the tests share a small machine, and a tiny model gains nothing from more.
    return dict(os.environ) | {"OMP_NUM_THREADS": "1"} | more  # noqa: TID251


@asynccontextmanager
async def served(
    command: Sequence[str], directory: Path, *, ready: bool = True, **variables: str
) -> AsyncIterator[ServedProcess]:
    """Started, listening and (unless told otherwise) ready. Killed when the block is left before it ended."""
    async with listening(ServedProcess, command, directory / "server.log", environment(**variables)) as server:
        if ready:
            await server.until_ready()
        yield server


def refused(command: Sequence[str], directory: Path) -> str:
    """Why it refuses its model: the line that a kubelet reads, and stderr's last one. Fails where it does not end."""
    log = directory / "termination-log"
    ended = subprocess.run(
        command,
        env=environment(HEADRACE_TERMINATION_LOG=str(log)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 78, ended.stderr
    assert "Traceback" not in ended.stderr
    reason = log.read_text()
    assert reason.count("\n") == 1
    assert ended.stderr.endswith(f"headrace: {reason}")
    return reason
