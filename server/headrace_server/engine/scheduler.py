"""Who runs in the next step: continuous batching with chunked prefill. Pure: the caller brings the clock.

    enter ──► waiting ──next_step──► running ──commit──► ended, pages free
              queue.py ◄─preempted── (slot, pages)       cancelled or expired from anywhere

Here is what becomes of each request; step_planner.py says what a step holds, in_flight.py what the device's tokens do.

Pages are granted as the tokens come. When none is left, the least urgent sequence, of these the one that loses the
least computed work, gives its pages up, waits at the place that its arrival gives it and is computed again later; the
most urgent one with the most work stays as long as preempting another one frees anything, so somebody always comes to
the end.

A request whose last step is planned leaves its slot and pages to the next one at once; its tokens still come.

A page or a slot may have a new owner while a step in flight still writes for the old one: the device computes the steps
in their order, so the new owner writes later. Nothing has to be fenced, and nothing waits for a fence.
"""

from collections.abc import Sequence as Listing

from headrace_server.config import EngineConfig
from headrace_server.engine.deadlines import Deadlines
from headrace_server.engine.entry import Entry
from headrace_server.engine.grammar import Guide
from headrace_server.engine.in_flight import Committed, StepsInFlight
from headrace_server.engine.pace import PrefillPace
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.places import Places
from headrace_server.engine.plan import Plan
from headrace_server.engine.prefix import PrefixCache
from headrace_server.engine.queue import Waiting
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.engine.speculation import Speculation
from headrace_server.engine.step_planner import StepPlanner
from headrace_server.engine.window import BatchingWindow
from headrace_server.request import Finish, Logprobs, Priority, Request


class Scheduler:
    def __init__(self, config: EngineConfig, kv_pages: int) -> None:
        self.pages = PageLedger(kv_pages, config.page_size)
        self.cache = PrefixCache(self.pages, "") if config.prefix_cache else None
        self.pace = PrefillPace(config.max_tokens_per_step)
        self.speculation = Speculation(config.speculative, config.max_tokens_per_step)
        self.queue = Waiting(config.max_wait, lambda tenant: config.tenants.of(tenant).weight)
        self.prompt_tokens = 0  # computed for the first time
        self.tokens = dict.fromkeys(Priority, 0)  # in all steps, those computed again included
        self.held_until: float | None = None  # when requests that wait for others begin without them; None: none waits
        self._window = BatchingWindow(config.batching_window)
        self._deadlines = Deadlines()
        self._entered = 0
        self._leaving: set[Sequence] = set()  # their last token is being computed; they hold nothing any more
        slots = min(config.max_running, config.max_tokens_per_step)  # everybody who decodes gets a token of a step
        entry = Entry(self.pages, self.cache)
        self._places = Places(slots, entry, self.pages, self.queue)
        self._planner = StepPlanner(config, self._places, self.queue, self.pace)
        self._in_flight = StepsInFlight()

    @property
    def waiting(self) -> int:
        return len(self.queue)

    @property
    def running(self) -> int:
        """Those who hold pages, and those who only await their last token."""
        return len(self._places.running) + len(self._leaving)

    @property
    def in_flight(self) -> int:
        """Steps that are planned and not committed."""
        return len(self._in_flight)

    def running_of(self, priority: Priority) -> int:
        """Those of a class. Any thread may ask: a tuple is made in one go."""
        running = (*tuple(self._places.running.values()), *tuple(self._leaving))
        return sum(one.request.priority is priority for one in running)

    @property
    def preemptions(self) -> int:
        return self._places.preemptions

    @property
    def recomputed_tokens(self) -> int:
        """Computed again because of preemptions."""
        return self._places.recomputed_tokens

    def add(self, request: Request) -> Sequence:
        """The request must fit: limits.check is the door."""
        return self.enter(self.prepared(request))

    def prepared(self, request: Request, guide: Guide | None = None) -> Sequence:
        """What it hashes and compiles is not the engine thread's work: any thread may call it."""
        sequence = Sequence(request, guide)
        self.speculation.prepare(sequence)
        if self.cache is not None and request.prompt_logprobs is None:  # what is found gives no logits
            sequence.prefix = self.cache.prefix(request.cache_owner, request.prompt)
        return sequence

    def enter(self, sequence: Sequence) -> Sequence:
        self._entered += 1
        sequence.number = self._entered
        self.queue.push(sequence)
        self._deadlines.add(sequence)
        self._window.arrived(sequence.request.arrived_at)
        return sequence

    def expire(self, now: float) -> tuple[Sequence, ...]:
        """Ends those whose deadline has passed, wherever they are; what they held is free at once."""
        late = tuple(self._deadlines.passed(now))
        for sequence in late:
            self.end(sequence, Finish.EXPIRED)
        return late

    def next_step(self, now: float) -> Step | None:
        """None when there is nothing to compute. May be called again before the step is committed."""
        guesses = self.speculation.look(self._places.running.values())
        if self.speculation.waits and self._in_flight:
            return None
        plan, held_until = Plan(self.pages, self.cache, guesses), self._held_until(now)
        held, ahead = held_until is not None, len(self._in_flight) > 0
        if not self._planner.fill(plan, now, held=held, ahead=ahead):
            return None
        self.held_until = held_until
        return self._planned(plan) if plan.chunks else None

    def observe(self, step: Step, seconds: float) -> None:
        """How long a step took."""
        fills = [chunk for chunk in step.chunks if chunk.token_ids]
        prompt_tokens = step.prompt_tokens
        # Of the average prompt token: one that ends a long prompt beside the first hundred of another tells of these.
        context = sum(chunk.start * chunk.tokens for chunk in fills) // max(1, prompt_tokens)
        self.speculation.observe(step, seconds)
        self.pace.observe(len(step.chunks) - len(fills), prompt_tokens, context, seconds)

    def commit(
        self,
        step: Step,
        token_ids: Listing[int],
        logprobs: Listing[Logprobs | None] = (),
        prompt_logprobs: Listing[Listing[Logprobs]] = (),
        guessed: Listing[int] = (),
    ) -> Committed:
        """Steps are committed in the order in which they were planned.

        `token_ids`: one per chunk that samples, and one per guess; `logprobs` of them, or none at all;
        `prompt_logprobs`: of each chunk that scores; `guessed`: what the draft model guessed, of all chunks.
        """
        committed = self._in_flight.commit(step, token_ids, logprobs, prompt_logprobs, guessed)
        self.speculation.committed(step, len(committed.tokens), committed.accepted)
        for sequence in committed.ended:
            self._release(sequence)
        return committed

    def end(self, sequence: Sequence, finish: Finish) -> bool:
        """Ends it from outside; what it held is free at once. False: it had ended before."""
        if sequence.released:
            return False
        sequence.finish = finish
        self._release(sequence)
        return True

    def abandon(self, finish: Finish) -> tuple[Sequence, ...]:
        """Ends everything; no step in flight will ever be committed."""
        everything = (*self.queue, *self._places.running.values(), *self._leaving)
        self._in_flight.forget()
        for sequence in everything:
            self.end(sequence, finish)
        return everything

    def check(self) -> None:
        """Raises LedgerBroken unless every page is either free or held by one running sequence."""
        self.pages.check(tuple(sequence.pages) for sequence in self._places.running.values())
        if self.cache is not None:
            self.cache.check()

    def _held_until(self, now: float) -> float | None:
        """An idle engine may wait for others to come, unless as many are here as can run."""
        if self.running or not 0 < len(self.queue) < self._places.free:
            return None
        until = self._window.until(now - self.queue.oldest(now))
        return until if until > now else None

    def _planned(self, plan: Plan) -> Step:
        step = plan.step()
        self._in_flight.planned(tuple(plan.sequences))
        self.speculation.planned(step)
        for sequence in plan.sequences:
            if not sequence.may_run:
                self._places.vacate(sequence)
                self._leaving.add(sequence)
        self.prompt_tokens += plan.prompt_tokens
        for priority, tokens in plan.tokens.items():
            self.tokens[priority] += tokens
        return step

    def _release(self, sequence: Sequence) -> None:
        sequence.released = True
        self._deadlines.ended(sequence)
        if sequence.slot is not None:
            self._places.vacate(sequence)
        elif sequence in self._leaving:
            self._leaving.remove(sequence)
        else:
            self.queue.remove(sequence)
