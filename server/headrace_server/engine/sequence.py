"""What the scheduler says about one request (Sequence) and about one forward pass (Step)."""

from dataclasses import dataclass

from headrace_server.request import Finish, Request, Sampling


@dataclass(eq=False, slots=True)
class Sequence:
    """One admitted request, as the scheduler sees it. Changed by the scheduler only; compared by identity."""

    request: Request
    slot: int | None = None  # None while waiting
    pages: tuple[int, ...] = ()
    planned: int = 0  # tokens whose KV is computed, or is being computed by a step that is not committed yet
    prompt_computed: int = 0  # prompt tokens of committed steps
    generated: int = 0  # tokens chosen by committed steps, a stop token included
    steps_in_flight: int = 0  # steps that write into `pages` right now
    queue_wait: float = 0.0  # seconds from arrival to the first step; known once it runs
    finish: Finish | None = None

    @property
    def prompt_left(self) -> int:
        return max(0, len(self.request.prompt) - self.planned)

    @property
    def may_run(self) -> bool:
        """False as well when the steps in flight will choose its last token."""
        last = len(self.request.prompt) + self.request.max_new_tokens - 1  # the last token itself is never fed
        return self.finish is None and self.planned < last

    @property
    def tokens_computed(self) -> int:
        return self.prompt_computed + self.generated


@dataclass(frozen=True, slots=True)
class Start:
    """A request that a step includes for the first time: what the runner has to know about it once."""

    slot: int  # the row of the runner's tables that is this request's until it ends
    pages: tuple[int, ...]  # for all of its tokens, in order
    sampling: Sampling  # the seed is set
    queue_wait: float  # seconds from arrival to this step


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sequence's part of one step."""

    slot: int
    start: int  # position of its first token
    token_ids: tuple[int, ...]  # part of the prompt; empty: one token, the one chosen for this slot last (decode)
    samples: bool  # a new token is chosen after the chunk's last one

    @property
    def tokens(self) -> int:
        return len(self.token_ids) or 1


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass. Holds no generated token, so the next step can be planned while this one computes."""

    starts: tuple[Start, ...]
    chunks: tuple[Chunk, ...]  # decode first, then prefill; a slot occurs once

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def samples(self) -> int:
        return sum(chunk.samples for chunk in self.chunks)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)
