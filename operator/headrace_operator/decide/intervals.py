"""What the newest intervals brought: each one, between two samples of a pod, teaches once, at the look that brought its
second sample."""

from collections.abc import Iterable
from dataclasses import dataclass

from headrace_operator.decide.rates import Series


@dataclass(frozen=True, slots=True)
class Newest:
    """Of all pods together. Of one that was silent for long nobody knows when they came, only that they did."""

    received: float  # requests
    refused: float  # requests
    retried: float  # requests
    finished: float  # requests, by processes that still run
    finished_tokens: float  # of them, prompt + generated
    at: float  # epoch seconds of the newest sample; 0 without one
    has_come: bool  # did anybody, also after a long silence?


def newest(grown: Iterable[Series], longest: float) -> Newest:
    """`longest`: seconds of an interval whose requests came lately. One loop: 500 deployments wait for this."""
    received = refused = retried = finished = tokens = at = 0.0
    has_come = False
    for series in grown:
        before, after = series[-2], series[-1]
        has_come = has_come or before.received != after.received
        at = after.at if after.at > at else at
        if after.finished > before.finished:
            finished += after.finished - before.finished
            tokens += after.finished_tokens - before.finished_tokens
        if after.at - before.at <= longest:  # of a new process, all that it counts
            received += after.received - before.received if after.received >= before.received else after.received
            refused += after.refused - before.refused if after.refused >= before.refused else after.refused
            retried += after.retried - before.retried if after.retried >= before.retried else after.retried
    return Newest(received, refused, retried, finished, tokens, at, has_come)
