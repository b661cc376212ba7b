"""The values that cross from the doors (rpc) into the engine and back."""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    seed: int | None = None  # None = the engine draws one; equal seeds give equal tokens whatever else is in the batch


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue, already tokenised."""

    id: str
    prompt: tuple[int, ...]  # token ids, at least one
    max_new_tokens: int
    arrived_at: float  # seconds on the engine's monotonic clock
    sampling: Sampling = field(default_factory=Sampling)
    stop_token_ids: frozenset[int] = frozenset()  # generation ends when one of these is chosen; it is not delivered


class Finish(StrEnum):
    """Why a request ended. The same member goes to the reply, the metric label and the test."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Token:
    """One step's news for one request."""

    id: int | None  # None when the request ended without a token to deliver (a stop token was chosen)
    finish: Finish | None = None  # set on the last one
    queue_wait: float = 0.0  # seconds from arrival to the first step that included the request; the same on each
