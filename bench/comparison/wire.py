"""How bench/engine.py talks with a side: one JSON line there, one JSON line back, over the side's stdin and stdout.

Only the standard library: a peer's Python imports it too. All times are seconds on CLOCK_MONOTONIC, which is the same
clock for every process of a machine, so that the parent can tell how long a side took from exec to its first token.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a side is loaded with. The same for each."""

    model: str  # checkpoint directory
    dtype: str
    device: str
    max_requests: int  # most that run together
    max_context: int  # tokens, prompt + output
    kv_cache_bytes: int  # enough for max_requests * max_context tokens


@dataclass(frozen=True, slots=True)
class Work:
    """All requests are submitted at once; each is answered greedily to its full length, end of text or not."""

    prompts: tuple[tuple[int, ...], ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Answers:
    began: float  # just before the first request was submitted
    tokens: tuple[tuple[int, ...], ...]
    times: tuple[tuple[float, ...], ...] | None  # when each token was there; None: the side shows only the end
    ended: float
    busy: float | None = None  # seconds that the device computed; None: the side does not tell
    resident: int | None = None  # bytes of the side's process after the work; likewise
    margins: tuple[tuple[tuple[int, float], ...], ...] | None = None  # the oracle's second choices, and how far behind

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Side(Protocol):
    """One engine, loaded."""

    def answer(self, work: Work) -> Answers: ...


class Door:
    """The side's end. Libraries write on stdout what they like: that goes to stderr, the wire is a copy made before."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def serve(self, side: Side) -> None:
        """Until stdin is closed. Waits in a blocking read, so an idle side costs its neighbours nothing."""
        for line in sys.stdin:
            self._replies.write(json.dumps(asdict(side.answer(work_from(json.loads(line))))) + "\n")
            self._replies.flush()


def settings_from_argv() -> Settings:
    return Settings(**json.loads(sys.argv[1]))


def now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def work_from(fields: dict[str, Any]) -> Work:
    return Work(_rows(fields["prompts"]), fields["output_tokens"])


def answers_from(fields: dict[str, Any]) -> Answers:
    tables = {name: fields[name] and _rows(fields[name]) for name in ("tokens", "times", "margins")}
    return Answers(**(fields | tables))


def _rows(rows: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, rows))
