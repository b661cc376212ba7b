"""What a trace asks for in its busiest moment: that is what a fleet has to carry."""

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    at: float  # seconds since the trace began
    prompt: int  # tokens
    answer: int  # tokens, at least 1

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Demand:
    """Of the busiest window of a trace; at least one request."""

    asked: tuple[Asked, ...]
    begin: float  # seconds since the trace began
    seconds: float  # of the window
    rate: float  # requests a second
    arrival_variability: float  # squared coefficient of variation of the times between arrivals; 1: chance
    trace_seconds: float
    trace_answer_tokens: float  # times the scale

    @property
    def answer_rate(self) -> float:
        """Tokens a second."""
        return self.rate * statistics.fmean(one.answer for one in self.asked)

    @property
    def prompt_rate(self) -> float:
        """Tokens a second."""
        return self.rate * statistics.fmean(one.prompt for one in self.asked)

    def part(self, share: float) -> "Demand":
        """What is left when chance sends each request here with this probability: the rest of it varies as chance."""
        return Demand(
            self.asked,
            self.begin,
            self.seconds,
            self.rate * share,
            share * self.arrival_variability + (1.0 - share),
            self.trace_seconds,
            self.trace_answer_tokens * share,
        )


def busiest(asked: Sequence[Asked], window: float, scale: float = 1.0) -> Demand:
    """`asked` in the order of time; `window` in seconds; `scale`: times the rate.

    The window that begins with a request and holds the most tokens. A trace that is shorter is one window.
    """
    begins = [one.at for one in asked]
    seconds = min(window, max(begins[-1] - begins[0], 1.0))
    sums = [0]
    for one in asked:
        sums.append(sums[-1] + one.tokens)

    def ends(first: int) -> int:
        return bisect.bisect_left(begins, begins[first] + seconds)

    best = max(range(len(asked)), key=lambda first: sums[ends(first)] - sums[first])
    chosen = tuple(asked[best : ends(best)]) or (asked[best],)
    trace_seconds = max(begins[-1] - begins[0], seconds)
    return Demand(
        asked=chosen,
        begin=begins[best],
        seconds=seconds,
        rate=scale * len(chosen) / seconds,
        arrival_variability=_variability([later.at - one.at for one, later in pairwise(chosen)]),
        trace_seconds=trace_seconds,
        trace_answer_tokens=scale * sum(one.answer for one in asked),
    )


def _variability(gaps: Sequence[float]) -> float:
    """Of too few to tell, or of all at once: chance."""
    mean = statistics.fmean(gaps) if len(gaps) > 1 else 0.0
    return (statistics.pstdev(gaps) / mean) ** 2 if mean > 1e-9 else 1.0
