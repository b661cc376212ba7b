"""Who runs in the next step: continuous batching with chunked prefill. Pure: the caller brings the clock.

    add ──► waiting ──next_step──► running ──commit──► ended, pages free
             FIFO  ◄──preempted──  (slot, pages)       cancel from anywhere

Pages are granted as the tokens come. When none is left, the sequence that loses the least computed work gives its pages
up, waits at the head of the queue and is computed again later; the one with the most work is never chosen, so somebody
always comes to the end.

A request whose last step is planned leaves its slot and pages to the next one at once; its tokens still come.

A page or a slot may have a new owner while a step in flight still writes for the old one: the device computes the steps
in their order, so the new owner writes later. Nothing has to be fenced, and nothing waits for a fence.
"""

from collections import deque
from collections.abc import Sequence as Listing
from dataclasses import dataclass

from headrace_server.config import EngineConfig
from headrace_server.engine.grammar import Guide
from headrace_server.engine.pace import PrefillPace
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.plan import Plan
from headrace_server.engine.preemption import victim_among
from headrace_server.engine.sequence import Sequence, Start, Step
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Request, Token


@dataclass(frozen=True, slots=True)
class Committed:
    """What a finished step brought."""

    tokens: tuple[tuple[Sequence, Token], ...]  # to deliver
    ended: tuple[Sequence, ...]  # hold nothing any more
    wasted: int = 0  # tokens chosen for requests that had ended before


class Scheduler:
    def __init__(self, config: EngineConfig, kv_pages: int) -> None:
        self.pages = PageLedger(kv_pages, config.page_size)
        self.pace = PrefillPace(config.max_tokens_per_step)
        self.prompt_tokens = 0  # computed for the first time
        self.preemptions = 0
        self.recomputed_tokens = 0  # computed again because of preemptions
        self._max_tokens = config.max_tokens_per_step
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by slot, oldest first
        self._leaving: set[Sequence] = set()  # their last token is being computed; they hold nothing any more
        self._free_slots = list(range(config.max_running - 1, -1, -1))
        self._in_flight: deque[tuple[Sequence, ...]] = deque()  # of each step, in the order of its chunks

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Those who hold pages, and those who only await their last token."""
        return len(self._running) + len(self._leaving)

    def oldest_waiting(self, now: float) -> float:
        """Seconds that the first request that never ran has waited so far; 0 when there is none."""
        first = next((sequence for sequence in self._waiting if sequence.queue_wait is None), None)
        return 0.0 if first is None else max(0.0, now - first.request.arrived_at)

    def add(self, request: Request) -> Sequence:
        """The request must fit: limits.check is the door."""
        return self.enter(Sequence(request))

    def enter(self, sequence: Sequence) -> Sequence:
        self._waiting.append(sequence)
        return sequence

    def next_step(self, now: float) -> Step | None:
        """None when there is nothing to compute. May be called again before the step is committed.

        Every running sequence gets at least one token, unless the pages are short; a structured one gets one as soon
        as it is known what the one before was, so every other step when steps overlap. So neither a long prompt starves
        those that decode nor the other way round.
        """
        ready = [sequence for sequence in self._running.values() if sequence.may_run and not sequence.awaits_its_token]
        plan = Plan(self.pages)
        self._decode(plan, [sequence for sequence in ready if not sequence.fill_left])
        budget = self.pace.prefill_tokens(len(plan.chunks), self._max_tokens - len(plan.chunks))
        for sequence in ready:
            if sequence.fill_left and sequence.slot is not None:  # else it has just been preempted
                budget -= plan.fill(sequence, budget)
        while budget > 0 and (start := self._start(now)):
            sequence = self._running[start.slot]
            plan.start(start, sequence)
            budget -= plan.fill(sequence, budget)
        return self._planned(plan)

    def commit(self, step: Step, token_ids: Listing[int]) -> Committed:
        """Steps are committed in the order in which they were planned. `token_ids`: one per chunk that samples."""
        if len(token_ids) != step.samples:
            raise ValueError(f"the runner returned {len(token_ids)} tokens for {step.samples} sequences")
        chosen = iter(token_ids)
        tokens: list[tuple[Sequence, Token]] = []
        ended: list[Sequence] = []
        wasted = 0
        for sequence, chunk in zip(self._in_flight.popleft(), step.chunks, strict=True):
            sequence.steps_in_flight -= 1
            if not chunk.samples:
                continue
            token_id = next(chosen)
            if sequence.finish is not None:  # it ended meanwhile, and this token is nobody's
                wasted += 1
                continue
            tokens.append((sequence, self._accept(sequence, token_id)))
            if sequence.finish is not None:
                self._release(sequence)
                ended.append(sequence)
        return Committed(tuple(tokens), tuple(ended), wasted)

    def end(self, sequence: Sequence, finish: Finish) -> bool:
        """Ends it from outside; what it held is free at once. False: it had ended before."""
        if sequence.released:
            return False
        sequence.finish = finish
        self._release(sequence)
        return True

    def abandon(self, finish: Finish) -> tuple[Sequence, ...]:
        """Ends everything; no step in flight will ever be committed."""
        everything = (*self._waiting, *self._running.values(), *self._leaving)
        self._in_flight.clear()
        for sequence in everything:
            self.end(sequence, finish)
        return everything

    def check(self) -> None:
        """Raises LedgerBroken unless every page is either free or held by one running sequence."""
        self.pages.check(tuple(sequence.pages) for sequence in self._running.values())

    def _decode(self, plan: Plan, decoding: list[Sequence]) -> None:
        """One token each. Makes room first when pages are short."""
        needy = [sequence for sequence in decoding if plan.pages_missing(sequence, 1)]
        if len(needy) > self.pages.free:
            self._make_room(plan, decoding)
        for sequence in decoding:
            if sequence.slot is not None and plan.has_room(sequence):
                plan.decode(sequence)

    def _make_room(self, plan: Plan, decoding: list[Sequence]) -> None:
        """Preempts until those who are left can go on, or only one is left: it gets what others soon give back."""
        while True:
            candidates = [sequence for sequence in self._running.values() if sequence.may_run]
            needed = sum(plan.pages_missing(sequence, 1) for sequence in decoding if sequence.slot is not None)
            if needed <= self.pages.free or len(candidates) < 2:
                return
            self._preempt(victim_among(candidates))

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.recomputed_tokens += sequence.planned
        self._vacate(sequence)
        sequence.planned = 0
        self._waiting.appendleft(sequence)

    def _start(self, now: float) -> Start | None:
        """First come, first served: when the head of the queue does not fit, nobody overtakes it.

        A preempted one has to wait for the token that a step in flight chooses for it.
        """
        if not self._waiting or not self._free_slots or self._waiting[0].steps_in_flight:
            return None
        fill = (*self._waiting[0].request.prompt, *self._waiting[0].answer)
        if self.pages.pages_for(len(fill) + 1) > self.pages.free:  # and a token to decode: else it is back at once
            return None
        sequence = self._waiting.popleft()
        sequence.slot, sequence.fill = self._free_slots.pop(), fill
        self._running[sequence.slot] = sequence
        first_time = sequence.queue_wait is None
        if sequence.queue_wait is None:
            sequence.queue_wait = max(0.0, now - sequence.request.arrived_at)
        return Start(sequence.slot, sequence.request.sampling, sequence.queue_wait if first_time else None)

    def _planned(self, plan: Plan) -> Step | None:
        if not plan.chunks:
            return None
        for sequence in plan.sequences:
            sequence.steps_in_flight += 1
            if not sequence.may_run:
                self._vacate(sequence)
                self._leaving.add(sequence)
        self._in_flight.append(tuple(plan.sequences))
        self.prompt_tokens += plan.prompt_tokens
        return plan.step()

    def _accept(self, sequence: Sequence, token_id: int) -> Token:
        queue_wait = sequence.queue_wait or 0.0
        sequence.answer.append(token_id)
        if token_id in sequence.request.stop_token_ids:
            sequence.finish = Finish.STOP
            return Token(None, sequence.finish, queue_wait)
        if sequence.request.stops is not None and sequence.request.stops.feed(token_id):
            sequence.finish = Finish.STOP
        elif sequence.guide is not None and (finish := _guided(sequence, sequence.guide, token_id)):
            sequence.finish = finish
        elif len(sequence.answer) == sequence.request.max_new_tokens:
            sequence.finish = Finish.LENGTH
        return Token(token_id, sequence.finish, queue_wait)

    def _release(self, sequence: Sequence) -> None:
        sequence.released = True
        if sequence.slot is not None:
            self._vacate(sequence)
        elif sequence in self._leaving:
            self._leaving.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        del self._running[sequence.slot]
        self._free_slots.append(sequence.slot)
        self.pages.give_back(sequence.pages)
        sequence.pages.clear()
        sequence.slot = None


def _guided(sequence: Sequence, guide: Guide, token_id: int) -> Finish | None:
    try:
        return Finish.STOP if guide.accept(token_id) else None
    except InvalidRequest as fault:
        sequence.fault = fault
        return Finish.FAILED
