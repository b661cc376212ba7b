"""An answer that comes too late is not computed: at the door, in the queue, in the middle."""

import random
from dataclasses import replace

import pytest
from engines import a_request, a_running_engine, answer_of, until
from example_counts import examples
from headrace_server.engine.deadlines import Deadlines
from headrace_server.engine.sequence import Sequence
from headrace_server.errors import DeadlineExceeded, Overloaded, Refusal
from headrace_server.request import Finish, Phase, Priority
from hypothesis import given
from hypothesis import strategies as st
from simulation import request_at, simulated


async def test_one_that_waits_is_ended_without_a_forward_pass() -> None:
    async with a_running_engine(max_running=1) as running:
        running.runner.gate.clear()
        first = running.engine.submit(a_request(max_new_tokens=2))
        await until(running.runner.entered.is_set)
        late = running.engine.submit(replace(a_request(), deadline=5.0))
        running.clock.now = 5.0
        running.runner.gate.set()
        with pytest.raises(DeadlineExceeded, match="while the request waited") as expired:
            await anext(late)
        assert not expired.value.started
        assert [token.finish async for token in first] == [None, Finish.LENGTH]
        assert sum(len(step.starts) for step in running.runner.steps) == 1
        assert running.metric("requests_finished_total", outcome=Finish.EXPIRED) == 1
        assert running.metric("requests_expired_total", phase=Phase.QUEUE) == 1


async def test_one_that_runs_is_stopped_within_a_step_and_gives_its_pages_back() -> None:
    async with a_running_engine() as running:
        running.runner.pause_at = 5
        stream = running.engine.submit(replace(a_request(max_new_tokens=50), deadline=5.0))
        await anext(stream)
        await until(lambda: not running.runner.gate.is_set())
        running.clock.now = 5.0
        running.runner.gate.set()
        with pytest.raises(DeadlineExceeded, match="tokens of the answer"):
            [token async for token in stream]
        await running.engine.drained()
        assert len(running.runner.steps) <= 5 + 2
        assert running.metric("requests_expired_total", phase=Phase.RUNNING) == 1
        assert running.engine.load().kv_pages_free == running.engine.load().kv_pages_total


async def test_one_that_came_too_late_is_not_let_in() -> None:
    async with a_running_engine() as running:
        running.clock.now = 9.0
        with pytest.raises(DeadlineExceeded, match="before the request arrived"):
            running.engine.submit(replace(a_request(), deadline=9.0))
        assert running.metric("requests_expired_total", phase=Phase.DOOR) == 1
        assert running.metric("requests_received_total") == 0


async def test_one_in_time_is_answered() -> None:
    async with a_running_engine() as running:
        tokens = await answer_of(running.engine, replace(a_request(max_new_tokens=3), deadline=5.0))
        assert tokens[-1].finish is Finish.LENGTH


def test_one_that_cannot_begin_in_time_is_refused_at_once_and_told_when_to_come() -> None:
    server = simulated(max_running=16)
    server.run((request_at(number / 200, 32, 32) for number in range(400)), 2.0)
    wait = server.backlog().wait(Priority.STANDARD)
    assert wait is not None
    assert wait > 1.0
    before = len(server.refused)
    server.arrive(request_at(server.now, deadline=server.now + wait / 2))
    server.arrive(request_at(server.now, deadline=server.now + wait * 2))
    [(_, refusal)] = server.refused[before:]
    assert isinstance(refusal, Overloaded)
    assert refusal.reason is Refusal.LATE
    assert refusal.retry_after == pytest.approx(wait / 2, rel=0.01)


@examples(100)
@given(st.lists(st.tuples(st.none() | st.floats(0, 100), st.booleans()), max_size=300), st.lists(st.floats(0, 120)))
def test_each_is_told_once_when_its_time_is_over(asked: list[tuple[float | None, bool]], looks: list[float]) -> None:
    deadlines, sequences = Deadlines(), []
    for number, (deadline, ends) in enumerate(asked):
        sequence = Sequence(request_at(0.0, deadline=deadline), number=number)
        deadlines.add(sequence)
        if ends:
            sequence.released = True
            deadlines.ended(sequence)
        else:
            sequences.append(sequence)
    told: list[Sequence] = []
    for now in sorted(looks):
        told += deadlines.passed(now)
        due = [each for each in sequences if each.request.deadline is not None and each.request.deadline <= now]
        assert sorted(each.number for each in told) == [each.number for each in due]


def test_far_deadlines_of_requests_that_ended_are_not_kept() -> None:
    deadlines, dice = Deadlines(), random.Random(1)
    for number in range(10_000):
        deadlines.add(sequence := Sequence(request_at(0.0, deadline=1e6 + dice.random()), number=number))
        sequence.released = True
        deadlines.ended(sequence)
    assert len(deadlines._heap) < 200
