"""How many replicas carry a demand within its promises, and which of them decides.

A replica is taken as one server of work: a request costs it its prompt, and its share of each step in which it gets a
token while all places are taken. That counts prompts that wait for other prompts, which slots would hide, and errs on
the side of more replicas.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from headrace_server.sizing.demand import Asked, Demand
from headrace_server.sizing.queueing import wait
from headrace_server.sizing.roofline import Speeds, decode_seconds, prompt_seconds
from headrace_server.telemetry.work import ModelWork

MOST = 100_000  # replicas
PERCENTILE = 0.95


class Bound(StrEnum):
    """What decides the number of replicas, or why there is none."""

    UTILIZATION = "Utilization"
    WAIT = "Wait"
    FIRST_TOKEN = "FirstToken"
    TOO_MANY = "TooMany"
    WEIGHTS_TOO_LARGE = "WeightsTooLarge"
    NO_ROOM_FOR_A_REQUEST = "NoRoomForARequest"
    TOKEN_TOO_SLOW = "TokenTooSlow"
    PROMPT_TOO_SLOW = "PromptTooSlow"


@dataclass(frozen=True, slots=True)
class Promise:
    """At the 95th percentile, in seconds; None: none was made."""

    wait: float | None = None  # in the queue
    ttft: float | None = None  # until the first token
    itl: float | None = None  # between two tokens, in the mean, in a full replica


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on a device."""

    work: ModelWork
    speeds: Speeds
    weights: float  # bytes that they take
    cache: float  # bytes left for keys and values; 0 or less: the weights do not fit
    max_running: int  # sequences in a step, at most

    @property
    def cache_tokens(self) -> int:
        return max(0, int(self.cache // self.work.kv_bytes_per_token))


@dataclass(frozen=True, slots=True)
class Full:
    """A replica whose places are all taken by such requests."""

    running: int
    token_seconds: float  # between two tokens of a request, prompts that join included
    work_seconds: float  # of the replica that a request costs, in the mean
    work_variability: float  # squared coefficient of variation of it

    @property
    def requests_per_second(self) -> float:
        return 1.0 / self.work_seconds


@dataclass(frozen=True, slots=True)
class Sizing:
    bound: Bound
    why: str
    replicas: int | None  # None: no number is enough
    full: Full | None  # None: nothing runs
    utilization: float | None = None  # of those replicas, in the busiest window
    wait: float | None = None  # seconds, 95th percentile
    ttft: float | None = None  # seconds, likewise


def size(replica: Replica, demand: Demand, promise: Promise, utilization: float) -> Sizing:
    """The fewest replicas. `utilization`: 0 to 1, of what they could carry, at most."""
    if replica.cache <= 0:
        return _none(Bound.WEIGHTS_TOO_LARGE, f"the weights take {replica.weights / 1e9:.1f} GB; the device has less")
    longest = max(one.tokens for one in demand.asked)
    if longest > replica.cache_tokens:
        room = f"the cache holds {replica.cache_tokens} tokens"
        return _none(Bound.NO_ROOM_FOR_A_REQUEST, f"{room}, a request of the trace has {longest}")
    found = fullest(replica, demand.asked, promise.itl)
    if found is None:
        alone = full_with(replica, demand.asked, 1)
        told = f"a token takes {alone.token_seconds:.4g} s even alone"
        return _none(Bound.TOKEN_TOO_SLOW, f"{told}, itl={promise.itl:g} was promised", alone)
    return _fewest(replica, found, demand, promise, utilization)


def fullest(replica: Replica, asked: tuple[Asked, ...], itl: float | None) -> Full | None:
    """As many requests at once as the cache holds in the mean and the promise between tokens allows; None: not one."""
    room = int(replica.cache_tokens // statistics.fmean(one.tokens for one in asked))
    low, high = 0, min(replica.max_running, max(1, room))  # more at once never make a token come sooner
    if itl is None:
        return full_with(replica, asked, high)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if full_with(replica, asked, middle).token_seconds <= itl else (low, middle - 1)
    return full_with(replica, asked, low) if low else None


def full_with(replica: Replica, asked: tuple[Asked, ...], running: int) -> Full:
    """A replica in which so many of these run at once."""
    answers = sum(one.answer for one in asked)
    # A request is seen by as many steps as its answer has tokens.
    context = sum(one.answer * (one.prompt + one.answer / 2) for one in asked) / answers
    step = decode_seconds(replica.work, replica.speeds, running, context)
    costs = [prompt_seconds(replica.work, replica.speeds, one.prompt) + one.answer * step / running for one in asked]
    mean = statistics.fmean(costs)
    return Full(
        running=running,
        token_seconds=running * mean * len(asked) / answers,
        work_seconds=mean,
        work_variability=statistics.pvariance(costs) / mean**2,
    )


def _fewest(replica: Replica, full: Full, demand: Demand, promise: Promise, utilization: float) -> Sizing:
    long_prompt = sorted(one.prompt for one in demand.asked)[math.ceil(PERCENTILE * len(demand.asked)) - 1]
    first = prompt_seconds(replica.work, replica.speeds, long_prompt) + full.token_seconds
    if promise.ttft is not None and first > promise.ttft:
        told = f"a prompt of {long_prompt} tokens takes {first:.4g} s with nobody before it"
        return _none(Bound.PROMPT_TOO_SLOW, f"{told}, ttft={promise.ttft:g} was promised", full)
    variability = (demand.arrival_variability + full.work_variability) / 2
    offered = demand.rate * full.work_seconds  # replicas' worth of work

    def waited(replicas: int) -> float:
        return wait(replicas, demand.rate, full.work_seconds, variability, PERCENTILE)

    def sized(replicas: int, bound: Bound, why: str) -> Sizing:
        seconds = waited(replicas)
        return Sizing(bound, why, replicas, full, offered / replicas, seconds, seconds + first)

    # More than there is work for, even at 100 %: else the queue only grows.
    enough = max(math.floor(offered) + 1, math.ceil(offered / utilization - 1e-9))
    found = [(enough, Bound.UTILIZATION, f"{offered:.3g} replicas' worth of work at {utilization:.0%} utilization")]
    limits = {Bound.WAIT: promise.wait, Bound.FIRST_TOKEN: None if promise.ttft is None else promise.ttft - first}
    for bound, limit in limits.items():
        if limit is not None:
            number = _least(enough, partial(_is_within, waited, limit))
            found.append((number, bound, f"with fewer, one in twenty waits longer than {limit:.3g} s"))
    replicas, bound, why = max(found, key=lambda each: each[0])
    if replicas > MOST:
        return _none(Bound.TOO_MANY, f"more than {MOST} replicas would be needed", full)
    return sized(replicas, bound, why)


def _is_within(waited: Callable[[int], float], limit: float, replicas: int) -> bool:
    return waited(replicas) <= limit


def _least(low: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest number from `low` on that is enough; more than MOST when none of those is. More are never worse."""
    high = low
    while high <= MOST and not is_enough(high):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _none(bound: Bound, why: str, full: Full | None = None) -> Sizing:
    return Sizing(bound, why, None, full)
