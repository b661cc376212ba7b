"""Every object once an interval, evenly spread. Time is the loop's own, made to jump instead of to pass."""

import asyncio
import selectors
from collections.abc import Iterator

import pytest
from headrace_operator.heartbeat import beat
from headrace_operator.work_queue import Key


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock goes at once to the moment for which everybody waits."""

    def __init__(self) -> None:
        super().__init__(_Impatient(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Impatient(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.now += timeout or 0.0
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return found


@pytest.fixture
def loop() -> Iterator[JumpingLoop]:
    made = JumpingLoop()
    yield made
    made.close()


def keys(number: int) -> list[Key]:
    return [("default", f"d{index}") for index in range(number)]


@pytest.mark.parametrize("number", [0, 1, 7, 500, 5000])
def test_each_is_marked_once_and_the_round_lasts_the_interval(loop: JumpingLoop, number: int) -> None:
    marks: list[tuple[Key, float]] = []
    loop.run_until_complete(beat(keys(number), lambda key: marks.append((key, loop.now)), 2.0))
    assert [key for key, _ in marks] == keys(number)
    assert loop.now == pytest.approx(2.0, abs=0.01)


def test_marks_are_spread_over_the_interval(loop: JumpingLoop) -> None:
    marks: list[float] = []
    loop.run_until_complete(beat(keys(500), lambda key: marks.append(loop.now), 2.0))
    for tenth in range(10):
        assert 40 <= sum(0.2 * tenth <= at < 0.2 * (tenth + 1) for at in marks) <= 60


def test_a_round_that_is_late_does_not_wait_too(loop: JumpingLoop) -> None:
    def slow(key: Key) -> None:
        loop.now += 0.1

    loop.run_until_complete(beat(keys(50), slow, 2.0))
    assert loop.now == pytest.approx(5.0)
