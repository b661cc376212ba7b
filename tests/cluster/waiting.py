"""Waiting with a deadline. A missed one says what was awaited, what was last seen, and what the logs say."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HANG = 300.0  # seconds: what takes longer has hung. Machines are slow and noisy, and no test is timed
TAIL_BYTES = 64 * 1024  # read at most this much of a log's end


class DeadlineMissed(TimeoutError):
    """Something did not happen in time; the message holds the evidence."""


def wait_until(
    what: str, probe: Callable[[], T], *, timeout: float, evidence: Callable[[], str], interval: float = 0.05
) -> T:
    """The first truthy answer of `probe`. Times in seconds.

    A probe that has nothing to look at yet raises LookupError or OSError (a refused connection is one); both count as
    "not yet" and are named if the deadline is missed. Every other exception of a probe propagates.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = probe()
            seen = repr(answer)
        except (LookupError, OSError) as error:
            answer, seen = None, f"{type(error).__name__}: {error}"
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise DeadlineMissed(f"{what}: not within {timeout:g} s; last seen: {seen}\n{evidence()}")
        time.sleep(interval)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log under a heading that names it."""
    return "\n".join([f"--- last lines of {log}", *(last_lines(log, lines) or ["(empty)"])])


def last_lines(log: Path, lines: int) -> list[str]:
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-lines:]
