"""What the scheduler says about one request (Sequence) and about one forward pass (Step)."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_server.engine.grammar import Guide
from headrace_server.engine.prefix import Chain, Prefix
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Logprobs, Priority, Request, Sampling

READ_AT_ONCE = 64  # tokens of one sequence that the draft model reads in a step which decodes


class Share(Protocol):
    """What its tenant got of the engine."""

    def got(self, tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens taken to follow the one that a decoding sequence feeds, and fed with it: as far as the model chooses the
    same, one step does the work of several."""

    count: int  # 0 only while the draft model has to read much before it can guess
    token_ids: tuple[int, ...]  # as found in the text; empty: the draft model guesses them, on the device
    unread: int = 0  # tokens before the chunk's first one that the draft model has not read yet

    @property
    def reads(self) -> int:
        """Tokens that the draft model reads before its first guess, from the first unread one on."""
        return min(self.unread + 1, READ_AT_ONCE)


class Guesser(Protocol):
    """Knows what may follow one text."""

    def guess(self, sequence: "Sequence", most: int) -> Guess | None:
        """At most so many tokens. Called when every token of the sequence is known."""


def cost_of(request: Request) -> int:
    """Tokens that it may take to compute."""
    return len(request.prompt) + answer_of(request)


def answer_of(request: Request) -> int:
    """Of them, those that may be generated: one in each step, however long the prompt was."""
    return max(1, request.max_new_tokens)


@dataclass(eq=False, slots=True)
class Sequence:
    """One admitted request, as the scheduler sees it. Changed by the scheduler only; compared by identity."""

    request: Request
    guide: Guide | None = None  # of a structured answer
    slot: int | None = None  # None while waiting
    pages: list[int] = field(default_factory=list)  # held now, in the order of the tokens
    fill: tuple[int, ...] = ()  # tokens to compute before the next one is chosen: the prompt, and what preemption undid
    planned: int = 0  # tokens whose KV is computed, or is being computed by a step that is not committed yet
    answer: list[int] = field(default_factory=list)  # tokens chosen by committed steps, a stop token included
    prefix: Prefix | None = None  # what may be found in the prefix cache when it starts; None: nothing
    chain: Chain | None = None  # how far its pages are in the prefix cache
    prompt_seen: int = 0  # prompt tokens that a step has included or that were found, each counted once
    prompt_computed: int = 0  # of them, those that were computed
    prompt_logprobs: list[Logprobs] = field(default_factory=list)  # of the prompt's second token onwards, if asked for
    steps_in_flight: int = 0  # steps whose token is not known yet
    queue_wait: float | None = None  # seconds from arrival to the first step; None until it runs
    finish: Finish | None = None
    fault: InvalidRequest | None = None  # set with Finish.FAILED when it is this request's own
    number: int = 0  # in the order of arrival
    overtaken: int = 0  # times that another one began instead, because this one did not fit
    share: Share | None = None  # set by the queue
    released: bool = False  # it holds nothing and waits for nothing any more
    guesser: Guesser | None = None  # None: its tokens are not guessed
    draft_read: int = 0  # tokens that the draft model has read
    # What every step asks of each sequence:
    offline: bool = field(init=False)
    last: int = field(init=False)  # tokens that are ever computed for it: its last one is never fed

    def __post_init__(self) -> None:
        self.offline = self.request.priority is Priority.BATCH
        new = max(1, self.request.max_new_tokens)  # 0: only the prompt's logprobs are wanted; what follows is dropped
        self.last = len(self.request.prompt) + new - 1

    @property
    def cost(self) -> int:
        return cost_of(self.request)

    @property
    def answer_cost(self) -> int:
        return answer_of(self.request)

    @property
    def fill_left(self) -> int:
        return max(0, len(self.fill) - self.planned)

    @property
    def may_run(self) -> bool:
        """False as well when the steps in flight will choose its last token."""
        return self.planned < self.last and self.finish is None

    @property
    def most_guesses(self) -> int:
        """One less than would end it if all were right: what holds guesses is never its last step."""
        return len(self.request.prompt) + self.request.max_new_tokens - self.planned - 3

    @property
    def awaits_its_token(self) -> bool:
        """Its grammar has to see the token that a step in flight chooses, before another one can be chosen."""
        return self.guide is not None and self.steps_in_flight > 0 and not self.fill_left

    @property
    def known(self) -> int:
        """Tokens that the host knows: the prompt, and the answer as far as steps are committed."""
        return len(self.request.prompt) + len(self.answer)

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """Known ones, of those positions. Costs what it returns, whatever the context."""
        prompt, before = self.request.prompt, len(self.request.prompt)
        return (*prompt[start:stop], *self.answer[max(0, start - before) : max(0, stop - before)])

    @property
    def tokens_computed(self) -> int:
        return self.prompt_computed + len(self.answer)


@dataclass(frozen=True, slots=True)
class Start:
    """A request that gets a slot with this step: what the runner has to know about it once."""

    slot: int  # the row of the runner's tables that is this request's until it ends or is preempted
    tokens: tuple[int, ...]  # prompt, after a preemption also the answer so far
    prompt_tokens: int  # how many of them are the prompt
    sampling: Sampling  # the seed is set
    stop_token_ids: frozenset[int]
    queue_wait: float | None  # seconds from arrival to this step; None when it ran before and was preempted
    priority: Priority = Priority.STANDARD  # for who counts the waits
    tenant: str = ""  # likewise


@dataclass(frozen=True, slots=True)
class Grant:
    """A page for a slot: where the KV of its tokens index * page_size and following goes."""

    slot: int
    index: int
    page: int


@dataclass(frozen=True, slots=True)
class Scoring:
    """Logprobs of a prompt: of the token after each of a chunk's first rows."""

    targets: tuple[int, ...]
    top: int  # how many of the likeliest beside each


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sequence's part of one step."""

    slot: int
    start: int  # position of its first token
    token_ids: tuple[int, ...]  # known tokens to fill in; empty: one token, the one chosen for this slot last (decode)
    samples: bool  # a new token is chosen after the chunk's last one
    mask: NDArray[np.int32] | None = field(default=None, compare=False)  # by which it is chosen; None: any token
    scoring: Scoring | None = None
    guess: Guess | None = None  # only of one that decodes
    adapter: str = ""  # by its name; "": the model alone

    @property
    def tokens(self) -> int:
        if self.guess is not None:
            return 1 + self.guess.count
        return len(self.token_ids) or 1

    @property
    def choices(self) -> int:
        """Tokens that are chosen: after the chunk's last one, or after each of those that are guessed."""
        return self.tokens if self.guess is not None else int(self.samples)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass. Holds no token that is not known yet, so it can be planned while the one before computes."""

    starts: tuple[Start, ...]
    grants: tuple[Grant, ...]
    chunks: tuple[Chunk, ...]  # decode first, then prefill; a slot occurs once
    speculates: int = 0  # tokens that were to be guessed for each who decodes, whether or not there were any guesses

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def samples(self) -> int:
        """Tokens that the device chooses; of guessed ones not all are kept."""
        guessed = sum(chunk.guess.count for chunk in self.chunks if chunk.guess is not None)
        return sum(chunk.samples for chunk in self.chunks) + guessed

    @property
    def prompt_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)
