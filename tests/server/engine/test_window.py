"""The batching window: a lone request never waits; those who come close together begin together, within the window."""

import random
import time

import pytest
from engines import Clock, a_request, a_running_engine
from example_counts import examples
from headrace_server.engine.window import BatchingWindow
from hypothesis import given
from hypothesis import strategies as st
from machines import Machine
from simulation import request_at, simulated

WINDOW = 0.02  # seconds


def test_a_lone_request_on_an_idle_engine_waits_for_nobody() -> None:
    server = simulated(batching_window=WINDOW)
    server.run((request_at(float(second)) for second in range(5)), 6.0)
    assert [life.sequence.queue_wait for life in server.lives.values()] == [0.0] * 5


def test_those_who_come_close_together_begin_together() -> None:
    quick = Machine(weights=0.001, sequence=0.0, token=0.0, read=0.0, gather=0.0)

    def begun(window: float) -> list[int]:
        server = simulated(quick, batching_window=window)
        server.run((request_at(number * 0.005, 8, 1) for number in range(40)), 1.0)
        return [step.tokens // 8 for step in server.steps]

    assert begun(0.0) == [1] * 40
    assert set(begun(WINDOW)[2:-1]) <= {4, 5}, "as many as come within the window"


@examples(100)
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=60), st.floats(0, 0.05))
def test_nobody_waits_longer_than_the_window_for_others(pauses: list[float], window: float) -> None:
    server = simulated(batching_window=window, max_running=100)
    times = [sum(pauses[: number + 1]) for number in range(len(pauses))]
    server.run((request_at(time, 4, 1) for time in times), times[-1] + 5.0)
    usual = server.machine.seconds(100, 400)
    waits = [life.sequence.queue_wait for life in server.lives.values()]
    assert len(waits) == len(times)
    assert all(wait is not None and wait <= window + 3 * usual for wait in waits)


def test_a_full_house_begins_at_once() -> None:
    server = simulated(batching_window=0.05, max_running=2)
    server.run([request_at(0.0), request_at(0.0)], 0.001)
    assert server.scheduler.running == 2


@pytest.mark.parametrize(
    ("pauses", "held"), [([], 0.0), ([0.5], 0.0), ([0.001] * 3, WINDOW), ([0.001] * 3 + [5.0], 0.0)]
)
def test_whom_others_are_expected_to_follow(pauses: list[float], held: float) -> None:
    window, now = BatchingWindow(WINDOW), 7.0
    window.arrived(now)
    for pause in pauses:
        now += pause
        window.arrived(now)
    assert window.until(now) == pytest.approx(now + held)


class RealClock(Clock):
    def __call__(self) -> float:
        return time.monotonic()


async def test_the_engine_wakes_up_when_the_window_ends() -> None:
    async with a_running_engine(clock=RealClock(), batching_window=0.05) as running:
        streams = [running.engine.submit(a_request(max_new_tokens=2, arrived_at=time.monotonic())) for _ in range(3)]
        for stream in streams:
            assert len([token async for token in stream]) == 2


@pytest.mark.parametrize("load", [20, 60, 100])
def test_a_window_fills_steps_and_no_window_answers_soonest(load: int) -> None:
    """Why none is the default: requests that come while a step runs share the next one anyway."""

    def run(window: float) -> tuple[float, float]:
        server, dice, due = simulated(batching_window=window), random.Random(1), 0.0
        arrivals = []
        while (due := due + dice.expovariate(load)) < 10:
            arrivals.append(request_at(due, dice.randint(16, 64), dice.randint(1, 4)))
        server.run(arrivals, 12)
        times = sorted(life.ttft for life in server.lives.values())
        return times[int(len(times) * 0.99)], sum(step.tokens for step in server.steps) / len(server.steps)

    without, small, large = run(0.0), run(0.005), run(0.05)
    assert small[0] == pytest.approx(without[0], rel=0.1)
    assert large[0] > 1.5 * without[0]
    assert large[1] > 1.1 * without[1]
