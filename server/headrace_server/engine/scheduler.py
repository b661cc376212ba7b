"""Who runs in the next step: continuous batching with chunked prefill. Pure: the caller brings the clock.

    enter ──► waiting ──next_step──► running ──commit──► ended, pages free
              queue.py ◄─preempted── (slot, pages)       cancelled or expired from anywhere

Pages are granted as the tokens come. When none is left, the least urgent sequence, of these the one that loses the
least computed work, gives its pages up, waits at the place that its arrival gives it and is computed again later; the
most urgent one with the most work stays as long as preempting another one frees anything, so somebody always comes to
the end.

Offline work gets what online work leaves. While both want more than a step holds it gets its reserve (reserve.py), and
whatever it holds beyond that is online work's to take.

A request whose last step is planned leaves its slot and pages to the next one at once; its tokens still come.

A page or a slot may have a new owner while a step in flight still writes for the old one: the device computes the steps
in their order, so the new owner writes later. Nothing has to be fenced, and nothing waits for a fence.
"""

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from headrace_server.config import EngineConfig
from headrace_server.engine.backfill import Backfill, Room
from headrace_server.engine.deadlines import Deadlines
from headrace_server.engine.entry import Entry
from headrace_server.engine.finish import finish_after
from headrace_server.engine.grammar import Guide
from headrace_server.engine.pace import PrefillPace
from headrace_server.engine.pages import PageLedger
from headrace_server.engine.places import Places
from headrace_server.engine.plan import Plan
from headrace_server.engine.prefix import PrefixCache
from headrace_server.engine.queue import OFFLINE, ONLINE, Waiting
from headrace_server.engine.reserve import Crowding, OfflineReserve
from headrace_server.engine.sequence import Sequence, Start, Step
from headrace_server.engine.window import BatchingWindow
from headrace_server.request import Finish, Logprobs, Priority, Request, Token


@dataclass(frozen=True, slots=True)
class Committed:
    """What a finished step brought."""

    tokens: tuple[tuple[Sequence, Token], ...]  # to deliver
    ended: tuple[Sequence, ...]  # hold nothing any more
    wasted: int = 0  # tokens chosen for requests that had ended before


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of next_step."""

    plan: Plan
    now: float
    awaiting: bool  # somebody's next token depends on a step in flight
    contested: bool  # online and offline work both want more of the step than a token each

    @property
    def decoding(self) -> int:
        return self.plan.decoding or int(self.awaiting)  # who awaits its token wants the next one soon


class Scheduler:
    def __init__(self, config: EngineConfig, kv_pages: int) -> None:
        self.pages = PageLedger(kv_pages, config.page_size)
        self.cache = PrefixCache(self.pages, "") if config.prefix_cache else None
        self.pace = PrefillPace(config.max_tokens_per_step)
        self.queue = Waiting(config.max_wait, lambda tenant: config.tenants.of(tenant).weight)
        self.prompt_tokens = 0  # computed for the first time
        self.tokens = dict.fromkeys(Priority, 0)  # in all steps, those computed again included
        self.held_until: float | None = None  # when requests that wait for others begin without them; None: none waits
        self._max_tokens = config.max_tokens_per_step
        self._reserve = OfflineReserve(config.offline_reserve, config.max_running, config.max_tokens_per_step)
        self._window = BatchingWindow(config.batching_window)
        self._deadlines = Deadlines()
        self._entered = 0
        self._crowding = Crowding()
        self._backfill = Backfill(self.pace)
        self._leaving: set[Sequence] = set()  # their last token is being computed; they hold nothing any more
        slots = min(config.max_running, config.max_tokens_per_step)  # everybody who decodes gets a token of a step
        entry = Entry(self.pages, self.cache)
        self._places = Places(slots, entry, self.pages, self.queue)
        self._in_flight: deque[tuple[Sequence, ...]] = deque()  # of each step, in the order of its chunks

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
        """None when there is nothing to compute. May be called again before the step is committed.

        Every running online sequence gets at least one token, unless the pages are short; a structured one gets one as
        soon as it is known what the one before was, so every other step when steps overlap. So neither a long prompt
        starves those that decode nor the other way round.
        """
        running = [sequence for sequence in self._places.running.values() if sequence.may_run]
        ready = [sequence for sequence in running if not sequence.awaits_its_token]
        online = [sequence for sequence in ready if not sequence.offline]
        offline = [sequence for sequence in ready if sequence.offline]
        if self._in_flight and not online and not self.queue.any(ONLINE) and not self._backfill.quiet(now):
            return None
        plan = Plan(self.pages, self.cache)
        turn = Turn(plan, now, awaiting=len(ready) < len(running), contested=self._contested(online, offline))
        if online or self.queue.any(ONLINE):
            self._backfill.online(now)
        self.held_until = self._held_until(now)
        self._online(turn, online, running, offline)
        self._offline(turn, offline)
        self._crowding.look(now, crowded=self.queue.any(ONLINE))
        owed = plan.total if self._crowding.lasts else 0
        self._reserve.planned(owed, plan.tokens[Priority.BATCH], turn.contested)
        self.queue.look(now)
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
        everything = (*self.queue, *self._places.running.values(), *self._leaving)
        self._in_flight.clear()
        for sequence in everything:
            self.end(sequence, finish)
        return everything

    def check(self) -> None:
        """Raises LedgerBroken unless every page is either free or held by one running sequence."""
        self.pages.check(tuple(sequence.pages) for sequence in self._places.running.values())
        if self.cache is not None:
            self.cache.check()

    def _contested(self, online: list[Sequence], offline: list[Sequence]) -> bool:
        """Both kinds have work, and online work has more than a token each."""
        if not offline and not self.queue.any(OFFLINE):
            return False
        return self.queue.any(ONLINE) or any(sequence.fill_left for sequence in online)

    def _online(self, turn: Turn, online: list[Sequence], running: list[Sequence], offline: list[Sequence]) -> None:
        plan = turn.plan
        decoding, filling = _split(online)
        self._decode(plan, decoding, running)
        owed = turn.contested and self._reserve.allowance > 0
        first = next(self.queue.order(turn.now, OFFLINE), None) if owed else None
        opens = first is not None and self._opens(first, len(offline)) and self._places.fits(first)
        withheld = self._withheld(offline, first if opens else None) if owed else 0
        most, decoders = self._max_tokens - plan.decoding - withheld, turn.decoding

        def room(context: int) -> int:
            return min(self.pace.prefill_tokens(decoders, context), most) - plan.known_tokens

        self._fill(plan, filling, room)
        kept = max(self._reserve.places, self._reserve.allowance) if self._crowding.lasts else 0
        while room(0) > 0 and self.held_until is None:
            order = self.queue.order(turn.now, ONLINE)
            start = self._places.begin(order, turn.now, int(opens), kept)
            if start is None:
                return
            self._started(plan, start, room)

    def _offline(self, turn: Turn, offline: list[Sequence]) -> None:
        plan, online = turn.plan, turn.plan.decoding
        room = self._offline_room(turn)
        running = [sequence for sequence in offline if sequence.slot is not None]  # the others were preempted just now
        decoding, filling = _split(running)
        self._decode(plan, decoding[: room.decoding], running)

        def left(context: int) -> int:
            bearable = min(room.prompts(context), self.pace.prefill_tokens(turn.decoding, context))
            return min(bearable - plan.known_tokens, room.tokens - plan.tokens[Priority.BATCH])

        self._fill(plan, filling, left)
        begun = len(running)
        while left(0) > 0 and self.held_until is None:
            order = self.queue.order(turn.now, OFFLINE)
            if room.owed:
                order = takewhile(partial(self._opens, running=begun), order)
            start = self._places.begin(order, turn.now)
            if start is None:
                break
            self._started(plan, start, left)
            begun += 1
        if online and not turn.contested:
            self._backfill.taken(plan, online)

    def _offline_room(self, turn: Turn) -> Room:
        plan, left = turn.plan, self._max_tokens - turn.plan.total
        if not plan.chunks:
            return self._backfill.in_a_gap(plan, turn.now, left)
        if turn.contested:
            owed = min(left, self._reserve.allowance)
            return Room(owed, owed, lambda _: self._max_tokens, owed=True)
        return self._backfill.beside(plan, self._places.unused, left)

    def _opens(self, first: Sequence, running: int) -> bool:
        return self._reserve.opens(first.known, running)

    def _withheld(self, offline: list[Sequence], first: Sequence | None) -> int:
        """Tokens of a contested step that are offline work's: what it is owed, as far as it can take that now."""
        wanted = sum(max(1, sequence.fill_left) for sequence in offline) + (first.known if first else 0)
        return min(self._reserve.allowance, wanted, self._max_tokens // 2)

    def _decode(self, plan: Plan, decoding: list[Sequence], candidates: list[Sequence]) -> None:
        """One token each. Makes room first when pages are short, at the cost of `candidates`."""
        needy = [sequence for sequence in decoding if plan.pages_missing(sequence, 1)]
        if len(needy) > self.pages.available:
            self._places.make_room(plan, decoding, candidates)
            decoding = [sequence for sequence in decoding if sequence.slot is not None]
            for sequence in decoding:
                if plan.has_room(sequence):
                    plan.decode(sequence)
            return
        for sequence in decoding:
            plan.decode(sequence)

    def _fill(self, plan: Plan, running: list[Sequence], room: Callable[[int], int]) -> None:
        """Prompts that are begun go on, as far as those who decode can bear it."""
        for sequence in running:
            if sequence.slot is not None:  # else it has just been preempted
                plan.fill(sequence, room(sequence.planned))

    def _started(self, plan: Plan, start: Start, room: Callable[[int], int]) -> None:
        sequence = self._places.running[start.slot]
        plan.start(start, sequence)
        plan.fill(sequence, max(1, room(sequence.planned)))

    def _held_until(self, now: float) -> float | None:
        """An idle engine may wait for others to come, unless as many are here as can run."""
        if self.running or not 0 < len(self.queue) < self._places.free:
            return None
        until = self._window.until(now - self.queue.oldest(now))
        return until if until > now else None

    def _planned(self, plan: Plan) -> Step | None:
        if not plan.chunks:
            return None
        step = plan.step()
        for sequence in plan.sequences:
            sequence.steps_in_flight += 1
            if not sequence.may_run:
                self._places.vacate(sequence)
                self._leaving.add(sequence)
        self._in_flight.append(tuple(plan.sequences))
        self.prompt_tokens += plan.prompt_tokens
        for priority, tokens in plan.tokens.items():
            self.tokens[priority] += tokens
        return step

    def _accept(self, sequence: Sequence, token_id: int, logprobs: Logprobs | None) -> Token:
        sequence.answer.append(token_id)
        if sequence.share is not None:
            sequence.share.got(1)
        sequence.finish = finish_after(sequence, token_id)
        first = tuple(sequence.prompt_logprobs) if len(sequence.answer) == 1 else ()
        delivered = token_id not in sequence.request.stop_token_ids and sequence.request.max_new_tokens > 0
        return Token(
            id=token_id if delivered else None,
            finish=sequence.finish,
            queue_wait=sequence.queue_wait or 0.0,
            logprobs=logprobs if delivered else None,
            prompt_logprobs=first,
            prompt_computed=sequence.prompt_computed,
        )

    def _release(self, sequence: Sequence) -> None:
        sequence.released = True
        self._deadlines.ended(sequence)
        if sequence.slot is not None:
            self._places.vacate(sequence)
        elif sequence in self._leaving:
            self._leaving.remove(sequence)
        else:
            self.queue.remove(sequence)


def _split(running: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
    """Those who decode, and those whose prompts are being filled in."""
    decoding: list[Sequence] = []
    filling: list[Sequence] = []
    for sequence in running:
        (filling if sequence.fill_left else decoding).append(sequence)
    return decoding, filling
