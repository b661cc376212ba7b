"""The simulator's door against the server's own: the same come, begin and hang up, and both refuse the same."""

from dataclasses import replace

import pytest
from headrace_operator.simulate.admission import Door
from headrace_server.config import EngineConfig
from headrace_server.engine.admission import Admission, Backlog
from headrace_server.engine.queue import Waiting, kind
from headrace_server.engine.sequence import Sequence
from headrace_server.errors import Overloaded
from headrace_server.request import Priority, Request
from hypothesis import given
from hypothesis import strategies as st
from simulation import request_at

MAX_WAITING = 12


class Both:
    """One queue, at both doors."""

    def __init__(self, max_wait: float) -> None:
        self.now = 0.0  # seconds
        self.simulated = Door(MAX_WAITING, max_wait)
        self.queue = Waiting(max_wait)
        self.door = Admission(EngineConfig(max_waiting=MAX_WAITING, max_wait=max_wait))
        self.inside: list[Sequence] = []

    def come(self, prompt: int, generated: int) -> tuple[float | None, float | None]:
        """What each door says: None, or seconds after which to come again. The server's decides."""
        oldest = self.now - self.inside[0].request.arrived_at if self.inside else 0.0
        told = self.simulated.again(oldest)
        request = replace(request_at(self.now, prompt, generated), arrived_at=self.now)
        again = self._refusal(request, oldest)
        if again is None:
            self.simulated.came(prompt, generated)
            self.door.admitted(request, self.now)
            self.inside.append(Sequence(request))
            self.queue.push(self.inside[-1])
        return told, again

    def begin(self) -> None:
        request = self.inside[0].request
        self.simulated.began(len(request.prompt), request.max_new_tokens)
        self.queue.begin(self.inside.pop(0))

    def hang_up(self) -> None:
        request = self.inside[-1].request
        self.simulated.left(len(request.prompt), request.max_new_tokens)
        self.queue.remove(self.inside.pop())

    def step(self, seconds: float) -> None:
        self.now += seconds
        self.simulated.look(self.now)
        self.queue.look(self.now)

    def _refusal(self, request: Request, oldest: float) -> float | None:
        queue = self.queue
        backlog = Backlog(
            requests={each: len(self.inside) if each is Priority.STANDARD else 0 for each in Priority},
            tokens={each: queue.tokens(each) for each in Priority},
            tokens_per_second={each: queue.tokens_per_second(kind(each)) for each in Priority},
            oldest=oldest,
            answers={each: queue.answers(each) for each in Priority},
            answers_per_second={each: queue.answers_per_second(kind(each)) for each in Priority},
        )
        try:
            self.door.check(request, backlog, self.now)
        except Overloaded as refused:
            return refused.retry_after
        return None


comings = st.tuples(st.just("come"), st.integers(1, 4000), st.integers(1, 400))
steps = st.tuples(st.just("step"), st.floats(0.01, 2.0), st.just(0))
others = st.tuples(st.sampled_from(["begin", "begin", "hang up"]), st.just(0), st.just(0))


@given(st.sampled_from([2.0, 60.0]), st.lists(comings | steps | others, max_size=120))
def test_both_doors_say_the_same(max_wait: float, events: list[tuple[str, float, int]]) -> None:
    both = Both(max_wait)
    for what, first, second in events:
        match what:
            case "come":
                told, again = both.come(int(first), second)
                assert told == (None if again is None else pytest.approx(again))
            case "step":
                both.step(first)
            case _ if both.inside:
                both.begin() if what == "begin" else both.hang_up()


def test_both_measure_answers_beside_tokens() -> None:
    """Long prompts have begun quickly by the token; the long answers that are left do not."""
    both = Both(max_wait=2.0)
    for _ in range(2):
        both.come(4000, 1)
    both.step(0.5)
    both.begin()
    both.step(0.5)
    assert both.come(1, 400) == (None, None)
    assert both.come(1, 400) == (60.0, 60.0)  # by tokens alone, 8,002 a second, the queue is gone in 0.6 s
