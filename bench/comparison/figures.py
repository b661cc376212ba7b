"""From what the sides answered, round by round, to the figures that are printed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from comparison.wire import Answers, Tokens

TIE = 1e-3  # of a logit: float32 sums in another order differ by less; two tokens so close are equally right


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of work."""

    requests: int
    prompt: int  # tokens
    output: int  # tokens

    @property
    def output_tokens(self) -> int:
        return self.requests * self.output

    def __str__(self) -> str:
        return f"{self.requests} x ({self.prompt} + {self.output})"


@dataclass(slots=True)
class Measured:
    """One side on one load."""

    name: str
    load: Load
    load_seconds: float
    agreeing: int | None = None  # requests answered as the oracle answers them; None: not compared
    rounds: list[Answers] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Output tokens per second of each round."""
        return [self.load.output_tokens / answers.seconds for answers in self.rounds]

    @property
    def wrong(self) -> int:
        return 0 if self.agreeing is None else self.load.requests - self.agreeing


def row(measured: Measured, ours: Measured, floor: float) -> dict[str, Any]:
    """`floor`: seconds."""
    speed = statistics.median(measured.speeds)
    ratios = [mine / theirs for mine, theirs in zip(ours.speeds, measured.speeds, strict=True)]
    return {
        "name": measured.name,
        "requests": measured.load.requests,
        "prompt_tokens": measured.load.prompt,
        "output_tokens": measured.load.output,
        "output_tokens_per_s": round(speed, 1),
        "output_tokens_per_s_rounds": [round(one, 1) for one in measured.speeds],
        "headrace_times_as_fast": round(statistics.median(ratios), 2),  # neighbouring turns, so the same busy moments
        **latencies(measured.rounds),
        "load_s": round(measured.load_seconds, 2),
        "idle_share": idle_share(measured.rounds),
        "share_of_floor": round(floor * speed / measured.load.output_tokens, 3),
        "agreeing_requests": measured.agreeing,
    }


def latencies(rounds: Sequence[Answers]) -> dict[str, float | None]:
    """Milliseconds, over all requests of all rounds. None: the side shows only the end of the whole work."""
    rows = [(one.began, *times) for one in rounds for times in one.times or ()]
    first = [times[1] - times[0] for times in rows]
    between = [later - earlier for times in rows for earlier, later in pairwise(times[1:])]
    return {
        "ttft_p50_ms": _milliseconds(first, 50),
        "ttft_p95_ms": _milliseconds(first, 95),
        "inter_token_p50_ms": _milliseconds(between, 50),
        "inter_token_p99_ms": _milliseconds(between, 99),
        "inter_token_max_ms": _milliseconds(between, 100),
    }


def idle_share(rounds: Sequence[Answers]) -> float | None:
    """Of the time from the first submission to the last token, what the device did not compute in."""
    busy = [one.busy for one in rounds if one.busy is not None]
    return round(max(0.0, 1 - sum(busy) / sum(one.seconds for one in rounds)), 3) if busy else None


def agreeing(answers: Answers, oracle: Answers) -> int:
    """How many requests were answered as the oracle does, up to a tie: from there on both go their own way."""
    assert oracle.margins is not None
    return sum(map(_agrees, answers.tokens, oracle.tokens, oracle.margins))


def _agrees(tokens: Tokens, right: Tokens, margins: Sequence[tuple[int, float]]) -> bool:
    """`margins`: at each place the second best token and how far its logit is behind."""
    if len(tokens) != len(right):
        return False
    for token, best, (second, margin) in zip(tokens, right, margins, strict=True):
        if token != best:
            return token == second and margin < TIE
    return True


def _milliseconds(seconds: Sequence[float], percent: int) -> float | None:
    """Nearest rank."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(1000 * ordered[max(0, -(-percent * len(ordered) // 100) - 1)], 2)
