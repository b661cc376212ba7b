"""What a caller wants, in the words that both doors share, and the checks that need no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace_server.errors import InvalidRequest
from headrace_server.request import Sampling

MOST_STOPS = 16
LONGEST_STOP = 256  # characters; each one may be held back from the stream until it is complete
HOTTEST = 2.0
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Chat:
    messages: tuple[Mapping[str, str], ...]  # each with role and content


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt to continue. Raises InvalidRequest, naming the field, when it could never be served."""

    prompt: str | tuple[int, ...] | Chat
    max_new_tokens: int | None  # None: `default_new_tokens`, or what is left of the context if that is less
    default_new_tokens: int | None  # None: all that is left
    sampling: Sampling
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.prompt == "":  # a tokenizer may make a BOS of nothing; the rest the engine's limits see
            raise InvalidRequest("prompt", "is empty; send at least one token")
        _check_sampling(self.sampling)
        _check_stops(self.stop)


def _check_sampling(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= HOTTEST):
        raise InvalidRequest("temperature", f"is {sampling.temperature}; must be from 0 (greedy) to {HOTTEST:g}")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequest("top_p", f"is {sampling.top_p}; must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise InvalidRequest("top_k", f"is {sampling.top_k}; must be 0 (all tokens) or more")
    if sampling.seed is not None and sampling.seed not in INT64:
        raise InvalidRequest("seed", f"is {sampling.seed}; must fit into a signed 64-bit integer")


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MOST_STOPS:
        raise InvalidRequest("stop", f"has {len(stops)} strings; at most {MOST_STOPS} are allowed")
    for stop in stops:
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise InvalidRequest("stop", f"a string has {len(stop)} characters; 1 to {LONGEST_STOP} are allowed")
