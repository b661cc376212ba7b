"""Who runs in the next step: continuous batching with chunked prefill. Pure: the caller brings the clock.

    add ──► waiting ──next_step──► running ──commit──► ended, pages free
             FIFO  ◄──preempted──  (slot, pages)       cancel from anywhere

Pages are granted as the tokens come. When none is left, the sequence that loses the least computed work gives its pages
up, waits at the head of the queue and is computed again later; the one with the most work stays as long as preempting
another one frees anything, so somebody always comes to the end.

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
from headrace_server.engine.preemption import Stake, victim
from headrace_server.engine.prefix import PrefixCache
from headrace_server.engine.sequence import Sequence, Start, Step
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Logprobs, Request, Token


@dataclass(frozen=True, slots=True)
class Committed:
    """What a finished step brought."""

    tokens: tuple[tuple[Sequence, Token], ...]  # to deliver
    ended: tuple[Sequence, ...]  # hold nothing any more
    wasted: int = 0  # tokens chosen for requests that had ended before


class Scheduler:
    def __init__(self, config: EngineConfig, kv_pages: int) -> None:
        self.pages = PageLedger(kv_pages, config.page_size)
        self.cache = PrefixCache(self.pages, "") if config.prefix_cache else None
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
        return self.enter(self.prepared(request))

    def prepared(self, request: Request, guide: Guide | None = None) -> Sequence:
        """What it hashes and compiles is not the engine thread's work: any thread may call it."""
        sequence = Sequence(request, guide)
        if self.cache is not None and request.prompt_logprobs is None:  # what is found gives no logits
            sequence.prefix = self.cache.prefix(request.tenant, request.prompt)
        return sequence

    def enter(self, sequence: Sequence) -> Sequence:
        self._waiting.append(sequence)
        return sequence

    def next_step(self, now: float) -> Step | None:
        """None when there is nothing to compute. May be called again before the step is committed.

        Every running sequence gets at least one token, unless the pages are short; a structured one gets one as soon
        as it is known what the one before was, so every other step when steps overlap. So neither a long prompt starves
        those that decode nor the other way round.
        """
        running = [sequence for sequence in self._running.values() if sequence.may_run]
        ready = [sequence for sequence in running if not sequence.awaits_its_token]
        plan = Plan(self.pages, self.cache)
        self._decode(plan, [sequence for sequence in ready if not sequence.fill_left])
        decoding = len(plan.chunks) or int(len(ready) < len(running))  # who awaits its token wants the next one soon
        self._fill(plan, [sequence for sequence in ready if sequence.fill_left], decoding, now)
        return self._planned(plan)

    def observe(self, step: Step, seconds: float) -> None:
        """How long a step took."""
        fills = [chunk for chunk in step.chunks if chunk.token_ids]
        context = max((chunk.start for chunk in fills), default=0)
        self.pace.observe(len(step.chunks) - len(fills), step.prompt_tokens, context, seconds)

    def commit(
        self,
        step: Step,
        token_ids: Listing[int],
        logprobs: Listing[Logprobs | None] = (),
        prompt_logprobs: Listing[Listing[Logprobs]] = (),
    ) -> Committed:
        """Steps are committed in the order in which they were planned.

        `token_ids`: one per chunk that samples; `logprobs` of them, or none at all; `prompt_logprobs`: of each chunk
        that scores.
        """
        if len(token_ids) != step.samples:
            raise ValueError(f"the runner returned {len(token_ids)} tokens for {step.samples} sequences")
        chosen = zip(token_ids, logprobs or (None,) * len(token_ids), strict=True)
        scores = iter(prompt_logprobs)
        tokens: list[tuple[Sequence, Token]] = []
        ended: list[Sequence] = []
        wasted = 0
        for sequence, chunk in zip(self._in_flight.popleft(), step.chunks, strict=True):
            sequence.steps_in_flight -= 1
            if chunk.scoring is not None:
                sequence.prompt_logprobs[chunk.start :] = next(scores)
            if not chunk.samples:
                continue
            token_id, logprob = next(chosen)
            if sequence.finish is not None:  # it ended meanwhile, and this token is nobody's
                wasted += 1
                continue
            tokens.append((sequence, self._accept(sequence, token_id, logprob)))
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
        if self.cache is not None:
            self.cache.check()

    def _decode(self, plan: Plan, decoding: list[Sequence]) -> None:
        """One token each. Makes room first when pages are short."""
        needy = [sequence for sequence in decoding if plan.pages_missing(sequence, 1)]
        if len(needy) > self.pages.available:
            self._make_room(plan, decoding)
        for sequence in decoding:
            if sequence.slot is not None and plan.has_room(sequence):
                plan.decode(sequence)

    def _fill(self, plan: Plan, filling: list[Sequence], decoding: int, now: float) -> None:
        """Prompts that are begun go on, then others begin, as far as those who decode can bear it."""
        most = self._max_tokens - len(plan.chunks)

        def room(context: int) -> int:
            return min(self.pace.prefill_tokens(decoding, context), most) - plan.known_tokens

        for sequence in filling:
            if sequence.slot is not None:  # else it has just been preempted
                plan.fill(sequence, room(sequence.planned))
        while room(0) > 0 and (start := self._start(now)):
            sequence = self._running[start.slot]
            plan.start(start, sequence)
            plan.fill(sequence, max(1, room(sequence.planned)))

    def _make_room(self, plan: Plan, decoding: list[Sequence]) -> None:
        """Preempts until those who are left can go on, or only one is left: it gets what others soon give back."""
        while True:
            candidates = [sequence for sequence in self._running.values() if sequence.may_run]
            needed = sum(plan.pages_missing(sequence, 1) for sequence in decoding if sequence.slot is not None)
            if needed <= self.pages.available or len(candidates) < 2:
                return
            chosen = victim([Stake(one.planned, self.pages.freed_by(one.pages)) for one in candidates])
            if chosen is None:
                return
            self._preempt(candidates[chosen])

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.recomputed_tokens += sequence.planned
        self._vacate(sequence)
        sequence.planned, sequence.prefix = 0, None  # it begins longer now
        self._waiting.appendleft(sequence)

    def _start(self, now: float) -> Start | None:
        """First come, first served: when the head of the queue does not fit, nobody overtakes it.

        A preempted one has to wait for the token that a step in flight chooses for it.
        """
        if not self._waiting or not self._free_slots or self._waiting[0].steps_in_flight:
            return None
        if not self._fits(self._waiting[0]):
            return None
        sequence = self._waiting.popleft()
        request = sequence.request
        sequence.slot, sequence.fill = self._free_slots.pop(), (*request.prompt, *sequence.answer)
        self._running[sequence.slot] = sequence
        self._match(sequence)
        first_time = sequence.queue_wait is None
        if sequence.queue_wait is None:
            sequence.queue_wait = max(0.0, now - request.arrived_at)
        return Start(
            slot=sequence.slot,
            tokens=sequence.fill,
            prompt_tokens=len(request.prompt),
            sampling=request.sampling,
            stop_token_ids=request.stop_token_ids,
            queue_wait=sequence.queue_wait if first_time else None,
        )

    def _fits(self, sequence: Sequence) -> bool:
        """With a token to decode: else it is back at once."""
        needed = self.pages.pages_for(sequence.known + 1)
        if needed <= self.pages.free:
            return True
        if self.cache is None or sequence.request.prompt_logprobs is not None:
            return needed <= self.pages.available
        if sequence.prefix is None:
            self._hash_again(sequence, self.cache)
        assert sequence.prefix is not None
        found = self.cache.found(sequence.prefix)
        return needed - found.pages <= self.pages.available - found.cached

    def _match(self, sequence: Sequence) -> None:
        if self.cache is None:
            return
        if sequence.request.prompt_logprobs is not None:
            sequence.chain = self.cache.match(self.cache.prefix(sequence.request.tenant, sequence.fill[:1])).chain
            return
        if sequence.prefix is None:
            self._hash_again(sequence, self.cache)
        assert sequence.prefix is not None
        match = self.cache.match(sequence.prefix)
        sequence.chain, sequence.pages = match.chain, [*match.pages]
        sequence.planned = len(match.pages) * self.pages.page_size
        sequence.prompt_seen = max(sequence.prompt_seen, min(len(sequence.request.prompt), sequence.planned))

    @staticmethod
    def _hash_again(sequence: Sequence, cache: PrefixCache) -> None:
        """After a preemption: it begins with its answer so far, too."""
        tokens = (*sequence.request.prompt, *sequence.answer)
        sequence.prefix = cache.prefix(sequence.request.tenant, tokens)

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

    def _accept(self, sequence: Sequence, token_id: int, logprobs: Logprobs | None) -> Token:
        sequence.answer.append(token_id)
        sequence.finish = _finish_after(sequence, token_id)
        first = tuple(sequence.prompt_logprobs) if len(sequence.answer) == 1 else ()
        delivered = token_id not in sequence.request.stop_token_ids and sequence.request.max_new_tokens > 0
        return Token(
            id=token_id if delivered else None,
            finish=sequence.finish,
            queue_wait=sequence.queue_wait or 0.0,
            logprobs=logprobs if delivered else None,
            prompt_logprobs=first,
        )

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


def _finish_after(sequence: Sequence, token_id: int) -> Finish | None:
    request = sequence.request
    if request.max_new_tokens > 0 and token_id in request.stop_token_ids:
        return Finish.STOP
    if request.stops is not None and request.stops.feed(token_id):
        return Finish.STOP
    if sequence.guide is not None and (finish := _guided(sequence, sequence.guide, token_id)):
        return finish
    return Finish.LENGTH if len(sequence.answer) >= request.max_new_tokens else None


def _guided(sequence: Sequence, guide: Guide, token_id: int) -> Finish | None:
    try:
        return Finish.STOP if guide.accept(token_id) else None
    except InvalidRequest as fault:
        sequence.fault = fault
        return Finish.FAILED
