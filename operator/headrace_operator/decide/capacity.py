"""What one warm replica carries, in tokens/s, learned while it was saturated: at any other time a replica shows only
what was asked of it."""

import math

from headrace_operator.decide.rates import SHORTEST, Series
from headrace_operator.decide.values import PodSample

WARM_UP = 5.0  # seconds after Ready in which a pod's speed is not learned from
STUCK = 0.5  # seconds: who waits longer was not just between two steps, whatever limit holds it (slots, KV pages)
GAIN = 0.2  # weight of one saturated interval against everything learned before
LONG_ENOUGH = 10.0  # seconds over which a speed is no burst of cheap prompt tokens
WORK_MEMORY = 50.0  # requests after which a new mix of short and long ones has mostly replaced the old one


def learned(known: float | None, series: Series) -> float | None:
    """With the newest interval of one warm pod. Faster than thought over many seconds is believed at once."""
    before, after = series[-2], series[-1]
    if _is_held_up(before) and _is_held_up(after) and (speed := _speed(before, after)):
        return speed if known is None else known + GAIN * (speed - known)
    if known is None or after.at - series[0].at < LONG_ENOUGH:
        return known
    sustained = _speed(series[0], after)
    return known if sustained is None else max(known, sustained)


def work(known: float | None, finished: float, tokens: float) -> float | None:
    """Mean tokens of a finished request, with the requests that finished since the last look and their tokens."""
    if finished < 1 or tokens <= 0:
        return known
    if known is None:
        return tokens / finished
    return known + (1 - math.exp(-finished / WORK_MEMORY)) * (tokens / finished - known)


def _speed(before: PodSample, after: PodSample) -> float | None:
    seconds, tokens = after.at - before.at, after.tokens - before.tokens
    return tokens / seconds if seconds >= SHORTEST and tokens >= 0 else None


def _is_held_up(sample: PodSample) -> bool:
    return sample.waiting > 0 and (sample.running >= sample.max_running > 0 or sample.oldest_waiting >= STUCK)
