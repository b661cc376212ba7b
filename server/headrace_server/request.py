"""The values that cross from the doors (rpc) into the engine and back."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_BIASES = 1024  # of one request: the device keeps a row of that many for each slot
MOST_STOP_TOKENS = 128  # likewise
MOST_LOGPROBS = 20  # of the likeliest tokens in one place, as OpenAI's chat


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    seed: int | None = None  # None = the engine draws one; equal seeds give equal tokens whatever else is in the batch
    min_p: float = 0.0  # tokens less likely than this share of the likeliest are out; 0 = none
    repetition_penalty: float = 1.0  # divides positive logits of the prompt's and the answer's tokens; 1 = none
    presence_penalty: float = 0.0  # taken from the logit of each token that the answer holds
    frequency_penalty: float = 0.0  # taken once for each time that the answer holds it
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit), each id once
    min_tokens: int = 0  # stop tokens cannot be chosen before the answer has so many
    logprobs: int | None = None  # None: none; n: those of the chosen token and of the n likeliest

    @property
    def penalises(self) -> bool:
        """Whether a choice depends on which tokens the text holds already."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


class Stops(Protocol):
    """Watches one answer for its stop strings."""

    def feed(self, token_id: int) -> bool:
        """To be called with each token of the answer in turn. True: this one completes a stop string."""


class Grammar(Protocol):
    """What one answer may be, token by token."""

    @property
    def finished(self) -> bool:
        """Nothing can follow but a stop token."""

    def accept(self, token_id: int) -> None:
        """To be called with each token of the answer in turn."""

    def fill(self, row: NDArray[np.int32]) -> None:
        """Writes which tokens may come next, one bit a token, the lowest bit first."""


def cache_owner(tenant: str, scope: str) -> str:
    """What no two of them have in common: names are printable, so that the tenant a/b is not the part b of a."""
    return f"{tenant}\0{scope}" if scope else tenant


class Priority(StrEnum):
    """A request's class: how urgent it is. The same member is in the request, the metric label and the test."""

    INTERACTIVE = "interactive"  # somebody reads along
    STANDARD = "standard"
    BATCH = "batch"  # offline: nobody waits for this one; it runs in what the others leave, and in its reserve


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue, already tokenised."""

    id: str
    prompt: tuple[int, ...]  # token ids, at least one
    max_new_tokens: int  # 0 only with prompt_logprobs
    arrived_at: float  # seconds on the engine's monotonic clock
    sampling: Sampling = field(default_factory=Sampling)
    stop_token_ids: frozenset[int] = frozenset()  # generation ends when one of these is chosen; it is not delivered
    stop: tuple[str, ...] = ()  # what `stops` looks for; the text that callers see is cut by the doors
    stops: Stops | None = None  # generation ends with the token that completes a stop string; it is delivered
    prompt_logprobs: int | None = None  # None: none; n: those of each prompt token and of the n likeliest in its place
    tenant: str = ""  # who asks: KV pages are shared within one tenant only, capacity between them; "" = nobody said
    adapter: str = ""  # that the model answers with, by its name; "": alone. KV pages are shared within one only
    cache_scope: str = ""  # KV pages are shared only within this part of the tenant; "" = within all of it
    grammar: Grammar | None = None
    priority: Priority = Priority.STANDARD
    deadline: float | None = None  # seconds on the clock of `arrived_at`; later the answer is of no use; None = none
    asked_before: bool = False  # its caller says that it is not the first try

    @property
    def cache_owner(self) -> str:
        owner = cache_owner(self.tenant, self.cache_scope)
        return f"{owner}\0\0{self.adapter}" if self.adapter else owner


class Finish(StrEnum):
    """Why a request ended. The same member goes to the reply, the metric label and the test."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    EXPIRED = (
        "expired"  # its deadline passed; the stream ends with errors.DeadlineExceeded, never with this as a reason
    )
    FAILED = "failed"


class Phase(StrEnum):
    """Where a request was when its deadline passed. The same member goes to the metric label and the test."""

    DOOR = "door"  # it came too late already
    QUEUE = "queue"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Logprob:
    id: int
    logprob: float  # natural logarithm of the probability that the model itself gives, before any setting


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one place in a text."""

    chosen: Logprob
    top: tuple[Logprob, ...] = ()  # the likeliest, in falling order; may hold the chosen one


@dataclass(frozen=True, slots=True)
class Token:
    """One step's news for one request."""

    id: int | None  # None when the request ended without a token to deliver (a stop token was chosen)
    finish: Finish | None = None  # set on the last one
    queue_wait: float = 0.0  # seconds from arrival to the first step that included the request; the same on each
    logprobs: Logprobs | None = None  # set with `id` when Sampling.logprobs is
    prompt_logprobs: tuple[Logprobs, ...] = ()  # on the first one when asked for: of the prompt's second token onwards
    prompt_computed: int = field(default=0, compare=False)  # tokens of the prompt not found in the prefix cache
