"""Builders for steps, for tests that speak to a runner without a scheduler."""

from headrace_server.engine.sequence import Start
from headrace_server.request import Sampling


def a_start(slot: int, tokens: tuple[int, ...] = (), sampling: Sampling | None = None) -> Start:
    """`tokens`: the prompt, which only penalties look at."""
    return Start(slot, tokens, len(tokens), sampling or Sampling(), frozenset(), queue_wait=0.0)
