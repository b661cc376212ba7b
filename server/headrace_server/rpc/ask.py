"""What a caller wants, in the words that both doors share, and the checks that need no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_server.came_with import ALONE, CameWith
from headrace_server.errors import InvalidRequest
from headrace_server.request import MOST_BIASES, MOST_LOGPROBS, MOST_STOP_TOKENS, Priority, Sampling
from headrace_server.rpc.structured import Format, check_goes_with
from headrace_server.rpc.tools import Offer

MOST_STOPS = 16
LONGEST_STOP = 256  # characters; each one may be held back from the stream until it is complete
INT64 = range(-(2**63), 2**63)
# Both ends included. Fields that have a value that means nothing take it from Sampling's defaults.
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),  # beyond, logits would leave what float32 holds
}
BIAS = (-100, 100)


@dataclass(frozen=True, slots=True)
class Chat:
    messages: tuple[Mapping[str, Any], ...]  # each with role and content, as chat templates read them
    offer: Offer | None = None  # tools that the model may call
    template_kwargs: Mapping[str, Any] | None = None  # what else the caller tells the template


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt to continue. Raises InvalidRequest, naming the field, when it could never be served."""

    prompt: str | tuple[int, ...] | Chat
    max_new_tokens: int | None  # None: `default_new_tokens`, or what is left of the context if that is less
    default_new_tokens: int | None  # None: all that is left
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    echo: bool = False  # the answer's text begins with the prompt's
    prompt_logprobs: int | None = None  # None: none; n: of each prompt token and of the n likeliest in its place
    format: Format | None = None  # None: free text
    priority: Priority = Priority.STANDARD
    timeout: float | None = None  # seconds from arrival in which the answer is of use; None: no such limit
    adapter: str = ""  # that the model answers with, by its name; "": alone
    tenant: str = ""  # who asks; "" = nobody said, or nobody who is believed
    came_with: CameWith = ALONE
    cache_scope: str = ""  # within the tenant, who may be answered from what was computed for this; "" = all of it

    def __post_init__(self) -> None:
        if self.prompt == "":  # a tokenizer may make a BOS of nothing; the rest the engine's limits see
            raise InvalidRequest("prompt", "is empty; send at least one token")
        _check_sampling(self.sampling)
        _check_logprobs("logprobs", self.sampling.logprobs)
        _check_logprobs("prompt_logprobs", self.prompt_logprobs)
        _check_stops(self.stop)
        check_goes_with(self.format, self.ignore_eos)

    def check_length(self, max_new_tokens: int) -> None:
        """Raises InvalidRequest when the answer can never be as long as it has to be."""
        if self.sampling.min_tokens > max(0, max_new_tokens):
            raise InvalidRequest(
                "min_tokens", f"is {self.sampling.min_tokens}; must be at most the answer's limit of {max_new_tokens}"
            )

    def check_vocabulary(self, size: int) -> None:
        """Raises InvalidRequest for token ids that the model does not have."""
        _check_ids("logit_bias", [token_id for token_id, _ in self.sampling.logit_bias], size)
        _check_ids("stop_token_ids", self.stop_token_ids, size)

    def stop_tokens(self, eos_token_ids: tuple[int, ...]) -> frozenset[int]:
        """Raises InvalidRequest when they are too many."""
        found = frozenset(self.stop_token_ids) | frozenset(() if self.ignore_eos else eos_token_ids)
        if len(found) > MOST_STOP_TOKENS:
            most = MOST_STOP_TOKENS - len(eos_token_ids)
            raise InvalidRequest("stop_token_ids", f"has {len(self.stop_token_ids)} ids; at most {most} are allowed")
        return found


def _check_sampling(sampling: Sampling) -> None:
    for field, (least, most) in RANGES.items():
        value = getattr(sampling, field)
        if not (math.isfinite(value) and least <= value <= most):
            raise InvalidRequest(field, f"is {value}; must be from {least:g} to {most:g}")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequest("top_p", f"is {sampling.top_p}; must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise InvalidRequest("top_k", f"is {sampling.top_k}; must be 0 (all tokens) or more")
    if sampling.seed is not None and sampling.seed not in INT64:
        raise InvalidRequest("seed", f"is {sampling.seed}; must fit into a signed 64-bit integer")
    if sampling.min_tokens < 0:
        raise InvalidRequest("min_tokens", f"is {sampling.min_tokens}; must be 0 or more")
    _check_biases(sampling.logit_bias)


def _check_biases(biases: tuple[tuple[int, float], ...]) -> None:
    if len(biases) > MOST_BIASES:
        raise InvalidRequest("logit_bias", f"has {len(biases)} tokens; at most {MOST_BIASES} are allowed")
    least, most = BIAS
    for token_id, bias in biases:
        if not least <= bias <= most:  # NaN is not, either
            raise InvalidRequest("logit_bias", f"of token {token_id} is {bias}; must be from {least} to {most}")


def _check_logprobs(field: str, wanted: int | None) -> None:
    if wanted is not None and not 0 <= wanted <= MOST_LOGPROBS:
        raise InvalidRequest(field, f"is {wanted}; must be from 0 to {MOST_LOGPROBS}")


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MOST_STOPS:
        raise InvalidRequest("stop", f"has {len(stops)} strings; at most {MOST_STOPS} are allowed")
    for stop in stops:
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise InvalidRequest("stop", f"a string has {len(stop)} characters; 1 to {LONGEST_STOP} are allowed")


def _check_ids(field: str, token_ids: list[int] | tuple[int, ...], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(field, f"token id {token_id} is outside 0..{vocab_size - 1} of this model")
