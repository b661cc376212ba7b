"""Whatever is asked in whatever order: pages stay whole, budgets hold, everybody is served in turn and to the end."""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import cycle

from engines import a_request
from example_counts import examples
from headrace_server.config import EngineConfig, SpeculativeConfig, SpeculativeMethod
from headrace_server.engine.places import OVERTAKEN
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Chunk, Guess, Sequence, Step
from headrace_server.request import Finish, Priority, Token
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PAGES = 12
PAGE_SIZE = 4
CONTEXT = PAGES * PAGE_SIZE
RIGHT_GUESSES = st.lists(st.integers(0, 4), min_size=1, max_size=5)  # in a row, of one request
WRONG = 900  # a token that no answer holds
GUESSES = tuple(SpeculativeConfig(SpeculativeMethod.NGRAM, tokens, max_batch=3) for tokens in (1, 4))
Content = tuple[str, tuple[int, ...]]  # tenant, and all tokens up to one position


@dataclass
class Life:
    """What the outside has seen of one request."""

    sequence: Sequence
    tokens: list[Token] = field(default_factory=list)
    started: bool = False
    ended: bool = False
    cut: bool = False  # cancelled, or its deadline passed
    overtaken: int = 0  # by later ones of its class and tenant

    def token(self, position: int) -> int:
        prompt = self.sequence.request.prompt
        return prompt[position] if position < len(prompt) else position

    def content(self, position: int) -> Content:
        """All that the KV at a position depends on."""
        return self.sequence.request.tenant, tuple(self.token(at) for at in range(position + 1))


class Fickle:
    """Guesses as many tokens right as it is told, again and again."""

    def __init__(self, life: Life, right: list[int]) -> None:
        self._life = life
        self._right = cycle(right)

    def guess(self, sequence: Sequence, most: int) -> Guess:
        assert sequence.steps_in_flight == 0
        assert sequence.planned == sequence.known - 1
        right, first = next(self._right), sequence.known
        return Guess(most, tuple(first + at if at < right else WRONG for at in range(most)))


def right_guesses(chunk: Chunk) -> int:
    guesses = chunk.guess.token_ids if chunk.guess is not None else ()
    return guesses.index(WRONG) if WRONG in guesses else len(guesses)


def chosen(chunk: Chunk) -> list[int]:
    """After a wrong guess whatever the model makes of it."""
    if chunk.guess is None:
        return [chunk.start + chunk.tokens]
    right = right_guesses(chunk)
    return [chunk.start + 1 + at if at <= right else WRONG + at for at in range(chunk.choices)]


@dataclass
class InFlight:
    step: Step
    lives: list[Life]  # of its chunks


class AnyOrder(RuleBasedStateMachine):
    """Tokens chosen are the position they stand at, so an answer tells whether a step was lost or repeated."""

    @initialize(
        max_running=st.integers(1, 5),
        max_tokens=st.integers(1, 12),
        prefix_cache=st.booleans(),
        reserve=st.sampled_from([0.0, 0.1, 0.5]),
        guesses=st.sampled_from([None, *GUESSES]),
    )
    def begin(
        self, max_running: int, max_tokens: int, prefix_cache: bool, reserve: float, guesses: SpeculativeConfig | None
    ) -> None:
        self.max_running, self.max_tokens = max_running, max_tokens
        config = EngineConfig(
            max_running=max_running,
            max_tokens_per_step=max_tokens,
            page_size=PAGE_SIZE,
            prefix_cache=prefix_cache,
            offline_reserve=reserve,
            speculative=guesses,
        )
        self.guesses = guesses is not None
        self.now = 0.0
        self.scheduler = Scheduler(config, PAGES)
        self.lives: list[Life] = []
        self.in_flight: deque[InFlight] = deque()
        self.pages: dict[tuple[int, int], int] = {}  # the device's block table: (slot, index) -> page
        self.memory: dict[tuple[int, int], Content] = {}  # the device's KV cache: (page, place) -> whose KV is there

    @rule(
        prompt=st.integers(1, CONTEXT - 1),
        new=st.integers(1, 20),
        stop_after=st.none() | st.integers(0, 6),
        who=st.tuples(st.sampled_from(["", "other"]), st.sampled_from(Priority), RIGHT_GUESSES),
        time=st.none() | st.floats(0, 100),
    )
    def submit(
        self,
        prompt: int,
        new: int,
        stop_after: int | None,
        who: tuple[str, Priority, list[int]],
        time: float | None,
    ) -> None:
        """All prompts begin alike."""
        new = min(new, CONTEXT - prompt)
        stop = None if stop_after is None else prompt + stop_after
        request = replace(
            a_request(prompt, new, stop=stop, arrived_at=self.now),
            tenant=who[0],
            priority=who[1],
            deadline=None if time is None else self.now + time,
        )
        life = Life(self.scheduler.add(request))
        if self.guesses:
            life.sequence.guesser = Fickle(life, who[2])
        self.lives.append(life)

    @rule(seconds=st.floats(0, 50))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for sequence in self.scheduler.expire(self.now):
            [life] = [life for life in self.lives if life.sequence is sequence]
            life.cut = True
            self._end(life)
        late = [life.sequence.request.deadline for life in self.lives if not life.ended]
        assert all(deadline is None or deadline > self.now for deadline in late)

    @precondition(lambda self: len(self.in_flight) < 2)
    @rule()
    def plan(self) -> None:
        step = self.scheduler.next_step(self.now)
        if step is None:
            alone = [life for life in self.lives if not life.ended]
            assert self.in_flight or not alone, "with nothing in flight somebody can go on"
            return
        assert 1 <= step.tokens <= self.max_tokens
        assert len({chunk.slot for chunk in step.chunks}) == len(step.chunks) <= self.max_running
        for grant in step.grants:
            self.pages[grant.slot, grant.index] = grant.page
        by_sequence = {life.sequence: life for life in self.lives}
        lives = [by_sequence[sequence] for sequence in self.scheduler._in_flight.latest]
        self._see_starts(step, lives)
        written = [
            place for chunk, life in zip(step.chunks, lives, strict=True) for place in self._compute(chunk, life)
        ]
        assert len(set(written)) == len(written), "no two tokens in the same place of the cache"
        self.in_flight.append(InFlight(step, lives))

    @precondition(lambda self: self.in_flight)
    @rule()
    def commit(self) -> None:
        done = self.in_flight.popleft()
        ids = [token for chunk in done.step.chunks if chunk.samples for token in chosen(chunk)]
        committed = self.scheduler.commit(done.step, ids)
        by_sequence = {life.sequence: life for life in self.lives}
        for sequence, token in committed.tokens:
            life = by_sequence[sequence]
            assert not life.cut, "no token after the end"
            assert not (life.tokens and life.tokens[-1].finish)
            life.tokens.append(token)
        for sequence in committed.ended:
            self._end(by_sequence[sequence])
        assert committed.wasted <= len(done.step.chunks)

    @precondition(lambda self: any(not life.ended for life in self.lives))
    @rule(choice=st.data())
    def cancel(self, choice: st.DataObject) -> None:
        life = choice.draw(st.sampled_from([life for life in self.lives if not life.ended]))
        life.cut = True
        assert self.scheduler.end(life.sequence, Finish.CANCELLED)
        self._end(life)

    @invariant()
    def pages_neither_leak_nor_double(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()
            assert self.scheduler.running <= 2 * self.max_running, "as many again may await their last token"

    def teardown(self) -> None:
        """Everything admitted ends, and then every page is free."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(len(self.lives) * 20 * CONTEXT + 2):
            if all(life.ended for life in self.lives) and not self.in_flight:
                break
            if len(self.in_flight) < 2:
                self.plan()
            if self.in_flight:
                self.commit()
        assert not self.in_flight
        assert self.scheduler.pages.available == PAGES
        assert (self.scheduler.waiting, self.scheduler.running) == (0, 0)
        for life in self.lives:
            self._check_answer(life)

    def _compute(self, chunk: Chunk, life: Life) -> list[tuple[int, int]]:
        """As the device would; returns where it wrote."""
        for position in range(chunk.start):
            assert self.memory[self._place(chunk.slot, position)] == life.content(position), "what is read is its own"
        written = [self._place(chunk.slot, chunk.start + offset) for offset in range(chunk.tokens)]
        for offset, place in enumerate(written):
            if chunk.token_ids:
                assert chunk.token_ids[offset] == life.token(chunk.start + offset)
            own = chunk.guess is None or offset <= right_guesses(chunk)
            self.memory[place] = life.content(chunk.start + offset) if own else ("of a wrong guess", ())
        return written

    def _place(self, slot: int, position: int) -> tuple[int, int]:
        return self.pages[slot, position // PAGE_SIZE], position % PAGE_SIZE

    def _see_starts(self, step: Step, lives: list[Life]) -> None:
        first = {start.slot for start in step.starts if start.queue_wait is not None}
        for chunk, life in zip(step.chunks, lives, strict=True):
            if chunk.slot in first and not life.started:
                life.started = True
                for other in self.lives[: self.lives.index(life)]:
                    if not (other.started or other.ended) and kind(other) == kind(life):
                        other.overtaken += 1
                        assert other.overtaken <= OVERTAKEN, "first come, first served, but for a few who fit"

    def _end(self, life: Life) -> None:
        assert not life.ended, "a request ends once"
        life.ended = True

    def _check_answer(self, life: Life) -> None:
        request = life.sequence.request
        assert life.ended
        if life.cut:
            return
        expected = list(range(len(request.prompt), len(request.prompt) + request.max_new_tokens))
        stops = [token for token in expected if token in request.stop_token_ids]
        answer = expected[: expected.index(stops[0])] if stops else expected
        assert [token.id for token in life.tokens if token.id is not None] == answer
        assert life.tokens[-1].finish is (Finish.STOP if stops else Finish.LENGTH)


def kind(life: Life) -> tuple[str, Priority]:
    return life.sequence.request.tenant, life.sequence.request.priority


AnyOrder.TestCase.settings = settings(examples(150), stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


def test_guesses_of_offline_work_fit_into_what_online_prompts_leave() -> None:
    """What the machine found once: a step of five tokens where four is the most."""
    everything = AnyOrder()
    everything.begin(max_running=3, max_tokens=4, prefix_cache=False, reserve=0.5, guesses=GUESSES[0])
    everything.submit(prompt=5, new=5, stop_after=None, time=None, who=("", Priority.BATCH, [0]))
    everything.plan()
    everything.commit()
    everything.plan()
    everything.submit(prompt=33, new=2, stop_after=None, time=None, who=("", Priority.INTERACTIVE, [0]))
    everything.commit()
    everything.submit(prompt=12, new=1, stop_after=None, time=None, who=("", Priority.INTERACTIVE, [0]))
    everything.submit(prompt=1, new=2, stop_after=None, time=None, who=("", Priority.INTERACTIVE, [0]))
    everything.plan()
    everything.time_passes(seconds=6.0)
    everything.teardown()
