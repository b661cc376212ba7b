"""What a load test saw, request by request and in sum."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Seconds count from the moment it was due, so waiting for a free slot here is not hidden."""

    due: float  # seconds since the load began
    duration: float  # to the last token, or to the failure
    ttft: float | None  # to the first token; None when none came
    queue_wait: float | None  # as the server measured it; None over HTTP, which does not carry it, and on failure
    prompt_tokens: int
    generated_tokens: int
    failure: str | None  # status and message; None when the answer is complete
    gaps: tuple[float, ...] = ()  # between two messages with tokens
    again: float | None = None  # seconds after which to come back, as a gRPC server said when it refused


@dataclass(frozen=True, slots=True)
class Slo:
    """What counts as good. Seconds; None: not asked."""

    ttft: float | None = None
    itl: float | None = None  # mean of the answer's gaps
    e2e: float | None = None

    def met_by(self, outcome: Outcome) -> bool:
        itl = sum(outcome.gaps) / len(outcome.gaps) if outcome.gaps else 0.0
        seen = ((outcome.ttft or 0.0, self.ttft), (itl, self.itl), (outcome.duration, self.e2e))
        return outcome.failure is None and all(limit is None or value <= limit for value, limit in seen)


@dataclass(frozen=True, slots=True)
class LoadSummary:
    seconds: float  # from the first request's due time to the last answer
    outcomes: tuple[Outcome, ...]
    slo: Slo | None = None

    @property
    def failures(self) -> Mapping[str, int]:
        return dict(Counter(outcome.failure for outcome in self.outcomes if outcome.failure is not None))

    def row(self, name: str) -> dict[str, Any]:
        answered = [outcome for outcome in self.outcomes if outcome.failure is None]
        tokens = sum(outcome.generated_tokens for outcome in answered)
        return {
            "name": name,
            "requests_sent": len(self.outcomes),
            "requests_failed": len(self.outcomes) - len(answered),
            "failures": self.failures,
            "seconds": round(self.seconds, 3),
            **_percentiles("ttft", (outcome.ttft for outcome in answered)),
            **_percentiles("queue_wait", (outcome.queue_wait for outcome in answered)),
            **_percentiles("itl", (gap for outcome in answered for gap in outcome.gaps)),
            **_percentiles("duration", (outcome.duration for outcome in answered)),
            "requests_per_second": round(len(answered) / self.seconds, 3) if self.seconds else None,
            **self._goodput(),
            "prompt_tokens": sum(outcome.prompt_tokens for outcome in answered),
            "output_tokens": tokens,
            "output_tokens_per_second": round(tokens / self.seconds, 2) if self.seconds else None,
        }

    def _goodput(self) -> dict[str, float | None]:
        """Requests answered within the objective: a second, and of all that were sent."""
        if self.slo is None:
            return {}
        good = sum(map(self.slo.met_by, self.outcomes))
        return {
            "goodput_requests_per_second": round(good / self.seconds, 3) if self.seconds else None,
            "goodput_share": round(good / len(self.outcomes), 4) if self.outcomes else None,
        }


def percentile(ordered: Sequence[float], part: float) -> float:
    """Nearest rank: always a value that was seen. `ordered` is sorted and not empty; `part` is above 0, at most 1."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def _percentiles(name: str, values: Iterable[float | None]) -> dict[str, float | None]:
    ordered = sorted(value for value in values if value is not None)
    return {
        f"{name}_p{percent}_seconds": round(percentile(ordered, percent / 100), 4) if ordered else None
        for percent in (50, 95, 99)
    }
