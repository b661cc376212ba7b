"""Whatever is asked in whatever order: pages stay whole, budgets hold, everybody is served in turn and to the end."""

from collections import deque
from dataclasses import dataclass, field

from engines import a_request
from headrace_server.config import EngineConfig
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.request import Finish, Token
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PAGES = 12
PAGE_SIZE = 4
CONTEXT = PAGES * PAGE_SIZE


@dataclass
class Life:
    """What the outside has seen of one request."""

    sequence: Sequence
    fed: list[int] = field(default_factory=list)  # prompt tokens
    fed_tokens: int = 0
    tokens: list[Token] = field(default_factory=list)
    ended: bool = False
    cancelled: bool = False


class AnyOrder(RuleBasedStateMachine):
    """Tokens chosen are the position they stand at, so an answer tells whether a step was lost or repeated."""

    @initialize(max_running=st.integers(1, 5), max_tokens=st.integers(1, 12))
    def begin(self, max_running: int, max_tokens: int) -> None:
        self.max_running, self.max_tokens = max_running, max_tokens
        config = EngineConfig(max_running=max_running, max_tokens_per_step=max_tokens, page_size=PAGE_SIZE)
        self.scheduler = Scheduler(config, PAGES)
        self.lives: list[Life] = []
        self.in_flight: deque[Step] = deque()
        self.owners: dict[int, Life] = {}
        self.started = 0

    @rule(prompt=st.integers(1, CONTEXT - 1), new=st.integers(1, 12), stop_after=st.none() | st.integers(0, 6))
    def submit(self, prompt: int, new: int, stop_after: int | None) -> None:
        new = min(new, CONTEXT - prompt)
        stop = None if stop_after is None else prompt + stop_after
        self.lives.append(Life(self.scheduler.add(a_request(prompt, new, stop=stop))))

    @precondition(lambda self: len(self.in_flight) < 2)
    @rule()
    def plan(self) -> None:
        unfinished = {slot for slot, life in self.owners.items() if self._has_more_to_compute(life)}
        step = self.scheduler.next_step(0.0)
        if step is None:
            assert not unfinished
            return
        assert unfinished <= {chunk.slot for chunk in step.chunks}, "nobody that runs is left out of a step"
        assert 1 <= step.tokens <= self.max_tokens
        assert len({chunk.slot for chunk in step.chunks}) == len(step.chunks) <= self.max_running
        for start in step.starts:
            life = self._next_to_start()
            assert life.sequence.slot == start.slot, "first come, first served"
            self.owners[start.slot] = life
        for chunk in step.chunks:
            life = self.owners[chunk.slot]
            assert chunk.start == life.fed_tokens, "positions follow each other"
            assert bool(chunk.token_ids) == (chunk.start < len(life.sequence.request.prompt))
            life.fed_tokens += chunk.tokens
            life.fed += chunk.token_ids
        self.in_flight.append(step)

    @precondition(lambda self: self.in_flight)
    @rule()
    def commit(self) -> None:
        step = self.in_flight.popleft()
        ids = [chunk.start + chunk.tokens for chunk in step.chunks if chunk.samples]
        committed = self.scheduler.commit(step, ids)
        by_sequence = {life.sequence: life for life in self.lives}
        for sequence, token in committed.tokens:
            life = by_sequence[sequence]
            assert not life.cancelled, "no token after the end"
            assert not (life.tokens and life.tokens[-1].finish)
            life.tokens.append(token)
        for sequence in committed.ended:
            self._end(by_sequence[sequence])

    @precondition(lambda self: any(not life.ended and not life.cancelled for life in self.lives))
    @rule(choice=st.data())
    def cancel(self, choice: st.DataObject) -> None:
        alive = [life for life in self.lives if not life.ended and not life.cancelled]
        life = choice.draw(st.sampled_from(alive))
        life.cancelled = not (life.tokens and life.tokens[-1].finish)
        if self.scheduler.end(life.sequence, Finish.CANCELLED):
            self._end(life)

    @invariant()
    def pages_neither_leak_nor_double(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()
            assert self.scheduler.running <= self.max_running

    def teardown(self) -> None:
        """Everything admitted ends, and then every page is free."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(sum(life.sequence.request.max_new_tokens + CONTEXT for life in self.lives) + 2):
            self.plan()
            if self.in_flight:
                self.commit()
        assert not self.in_flight
        assert self.scheduler.pages.free == PAGES
        assert (self.scheduler.waiting, self.scheduler.running) == (0, 0)
        for life in self.lives:
            self._check_answer(life)

    def _next_to_start(self) -> Life:
        while self.lives[self.started].sequence.slot is None:
            assert self.lives[self.started].cancelled, "only the cancelled are passed over"
            self.started += 1
        life = self.lives[self.started]
        self.started += 1
        return life

    def _has_more_to_compute(self, life: Life) -> bool:
        request = life.sequence.request
        finished = life.ended or life.cancelled or bool(life.tokens and life.tokens[-1].finish)
        return not finished and life.fed_tokens < len(request.prompt) + request.max_new_tokens - 1

    def _end(self, life: Life) -> None:
        assert not life.ended, "a request ends once"
        life.ended = True

    def _check_answer(self, life: Life) -> None:
        request = life.sequence.request
        assert life.ended
        if life.cancelled:
            return
        expected = list(range(len(request.prompt), len(request.prompt) + request.max_new_tokens))
        stops = [token for token in expected if token in request.stop_token_ids]
        answer = expected[: expected.index(stops[0])] if stops else expected
        assert tuple(life.fed) == request.prompt
        assert [token.id for token in life.tokens if token.id is not None] == answer
        assert life.tokens[-1].finish is (Finish.STOP if stops else Finish.LENGTH)


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
