"""One request as it was, told once when it is over; metrics and traces are made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from headrace_server.came_with import CameWith
from headrace_server.request import Finish, Sampling


class Operation(StrEnum):
    """As OpenTelemetry's GenAI conventions call it."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"  # of a cross-encoder; the conventions have no word for it


@dataclass(frozen=True, slots=True)
class Answered:
    """Moments are seconds on the engine's clock; None = it did not come so far."""

    operation: Operation
    came_with: CameWith
    arrived: float
    ended: float
    request_id: str = ""
    admitted: bool = False  # into the queue
    began: float | None = None  # the first step that included it
    first_token: float | None = None
    last_token: float | None = None
    detokenising: float | None = None  # seconds spent on it; None = not measured
    prompt_tokens: int | None = None
    generated_tokens: int = 0
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    finish: Finish | None = None  # None: it was refused, broke, or its caller left
    error: str | None = None  # what kind of


Hear = Callable[[Answered], None]
