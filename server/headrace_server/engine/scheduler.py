"""Who runs in the next step: continuous batching with chunked prefill. Pure: the caller brings the clock.

    add ──► waiting ──next_step──► running ──commit──► ended, pages free
                 FIFO        (slot, pages)     cancel from anywhere

The pages of the whole answer are reserved when a request starts, so a running one is never preempted. The price: pages
that an answer does not reach (a stop token, a generous max_new_tokens) stand empty while others wait. It shows as
headrace_requests_waiting > 0 with headrace_requests_running below headrace_max_running.
"""

from collections import deque
from collections.abc import Sequence as Listing
from dataclasses import dataclass

from headrace_server.config import EngineConfig
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.sequence import Chunk, Sequence, Start, Step
from headrace_server.request import Finish, Request, Token


@dataclass(frozen=True, slots=True)
class Committed:
    """What a finished step brought."""

    tokens: tuple[tuple[Sequence, Token], ...]  # to deliver
    ended: tuple[Sequence, ...]  # hold nothing any more


class Scheduler:
    def __init__(self, config: EngineConfig, kv_pages: int) -> None:
        self.pages = PageLedger(kv_pages, config.page_size)
        self._max_tokens = config.max_tokens_per_step
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by slot, oldest first
        self._free_slots = list(range(config.max_running - 1, -1, -1))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def oldest_waiting(self, now: float) -> float:
        """Seconds that the head of the queue has waited so far; 0 when nobody waits."""
        return max(0.0, now - self._waiting[0].request.arrived_at) if self._waiting else 0.0

    def add(self, request: Request) -> Sequence:
        """The request must fit: limits.check is the door."""
        sequence = Sequence(request)
        self._waiting.append(sequence)
        return sequence

    def next_step(self, now: float) -> Step | None:
        """None when there is nothing to compute. May be called again before the step is committed.

        Every running sequence gets at least one token, since none starts without a token left for it. So neither a
        long prompt starves those that decode nor the other way round.
        """
        ready = [sequence for sequence in self._running.values() if sequence.may_run]
        decoding = [sequence for sequence in ready if not sequence.prompt_left]
        filling = [sequence for sequence in ready if sequence.prompt_left]
        chunks = [self._decode(sequence) for sequence in decoding]
        budget = self._max_tokens - len(chunks)

        for sequence in filling:  # at most one: the next one starts only when a token is left
            chunks.append(self._prefill(sequence, budget))
            budget -= chunks[-1].tokens

        starts = []
        while budget > 0 and (start := self._start(now)):
            starts.append(start)
            chunks.append(self._prefill(self._running[start.slot], budget))
            budget -= chunks[-1].tokens
        return Step(tuple(starts), tuple(chunks)) if chunks else None

    def commit(self, step: Step, token_ids: Listing[int]) -> Committed:
        """Steps are committed in the order in which they were planned. `token_ids`: one per chunk that samples."""
        if len(token_ids) != step.samples:
            raise ValueError(f"the runner returned {len(token_ids)} tokens for {step.samples} sequences")
        chosen = iter(token_ids)
        tokens = []
        ended = []
        for chunk in step.chunks:
            sequence = self._running[chunk.slot]
            sequence.steps_in_flight -= 1
            sequence.prompt_computed += len(chunk.token_ids)
            if chunk.samples:
                token_id = next(chosen)
                if sequence.finish is None:  # else it ended meanwhile, and this token is nobody's
                    tokens.append((sequence, self._accept(sequence, token_id)))
            if self._release_if_ended(sequence):
                ended.append(sequence)
        return Committed(tuple(tokens), tuple(ended))

    def end(self, sequence: Sequence, finish: Finish) -> bool:
        """Ends it from outside. False: a step in flight still writes into its pages, the commit will release them."""
        if sequence.finish is None:
            sequence.finish = finish
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return True
        return self._release_if_ended(sequence)

    def abandon(self, finish: Finish) -> tuple[Sequence, ...]:
        """Ends everything; no step in flight will ever be committed."""
        for sequence in self._running.values():
            sequence.steps_in_flight = 0
        everything = (*self._waiting, *self._running.values())
        for sequence in everything:
            self.end(sequence, finish)
        return everything

    def check(self) -> None:
        """Raises LedgerBroken unless every page is either free or held by one running sequence."""
        self.pages.check(sequence.pages for sequence in self._running.values())

    def _decode(self, sequence: Sequence) -> Chunk:
        return self._plan(sequence, token_ids=(), tokens=1)

    def _prefill(self, sequence: Sequence, budget: int) -> Chunk:
        token_ids = sequence.request.prompt[sequence.planned : sequence.planned + budget]
        return self._plan(sequence, token_ids, len(token_ids))

    def _plan(self, sequence: Sequence, token_ids: tuple[int, ...], tokens: int) -> Chunk:
        assert sequence.slot is not None
        start = sequence.planned
        sequence.planned += tokens
        sequence.steps_in_flight += 1
        return Chunk(sequence.slot, start, token_ids, samples=not sequence.prompt_left)

    def _start(self, now: float) -> Start | None:
        """First come, first served: when the head of the queue does not fit, nobody overtakes it."""
        if not self._waiting or not self._free_slots:
            return None
        request = self._waiting[0].request
        needed = self.pages.pages_for(len(request.prompt) + request.max_new_tokens)
        if needed > self.pages.free:
            return None
        sequence = self._waiting.popleft()
        sequence.slot = self._free_slots.pop()
        sequence.pages = self.pages.take(needed)
        sequence.queue_wait = max(0.0, now - request.arrived_at)
        self._running[sequence.slot] = sequence
        return Start(sequence.slot, sequence.pages, request.sampling, sequence.queue_wait)

    def _accept(self, sequence: Sequence, token_id: int) -> Token:
        sequence.generated += 1
        if token_id in sequence.request.stop_token_ids:
            sequence.finish = Finish.STOP
            return Token(None, sequence.finish, sequence.queue_wait)
        if sequence.generated == sequence.request.max_new_tokens:
            sequence.finish = Finish.LENGTH
        return Token(token_id, sequence.finish, sequence.queue_wait)

    def _release_if_ended(self, sequence: Sequence) -> bool:
        if sequence.finish is None or sequence.steps_in_flight or sequence.slot is None:
            return False
        del self._running[sequence.slot]
        self._free_slots.append(sequence.slot)
        self.pages.give_back(sequence.pages)
        return True
