"""Every object once an interval, evenly spread. Time is the loop's own, made to jump instead of to pass."""

import asyncio
import selectors
from collections.abc import Iterator

import pytest
from headrace_operator.heartbeat import alert_round, beat, calm_round
from headrace_operator.pace import MOST_LOOKS, Pace
from headrace_operator.work_queue import Key
from hypothesis import given
from hypothesis import strategies as st


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


def paced(alert: int, *, longest: float = 2.0) -> Pace:
    """The first `alert` of all keys are alert."""
    pace = Pace(longest)
    for key in keys(alert):
        pace.tell(key, is_alert=True)
    return pace


@pytest.mark.parametrize(
    ("known", "alert", "calm_seconds", "alert_seconds"),
    [
        pytest.param(1, 1, 1.0, 0.5, id="one"),
        pytest.param(50, 50, 1.0, 0.5, id="few, all of them alert"),
        pytest.param(75, 1, 1.5, 0.5, id="more"),
        pytest.param(500, 10, 2.0, 0.5, id="many, few of them alert"),
        pytest.param(500, 100, 2.0, 1.25, id="many alert ones share what is left"),
        pytest.param(500, 500, 2.0, 500 / 280, id="all of many"),
        pytest.param(5000, 10, 2.0, 2.0, id="too many for anything else than the interval"),
    ],
)
def test_how_often_each_is_looked_at(known: int, alert: int, calm_seconds: float, alert_seconds: float) -> None:
    pace = paced(alert)
    assert pace.calm_seconds(known) == pytest.approx(calm_seconds)
    assert pace.alert_seconds(known) == pytest.approx(alert_seconds)


@given(st.integers(1, 560), st.data())
def test_looks_never_exceed_what_a_core_holds(known: int, data: st.DataObject) -> None:
    alert = data.draw(st.integers(0, known))
    pace = paced(alert)
    looks = (known - alert) / pace.calm_seconds(known) + alert / pace.alert_seconds(known)
    assert looks <= MOST_LOOKS + 1e-6


@given(st.integers(1, 2000), st.integers(0, 50), st.floats(0.05, 10.0))
def test_nobody_waits_longer_than_the_interval(known: int, alert: int, longest: float) -> None:
    pace = paced(min(alert, known), longest=longest)
    assert max(pace.calm_seconds(known), pace.alert_seconds(known)) <= longest


def test_an_alert_object_is_looked_at_at_its_own_pace_and_only_there(loop: JumpingLoop) -> None:
    pace, first, second = paced(1), *keys(2)
    calm: list[Key] = []
    loop.run_until_complete(calm_round(pace, keys(2), calm.append))
    assert (calm, loop.now) == ([second], pytest.approx(1.0))
    hasty: list[Key] = []
    loop.run_until_complete(alert_round(pace, 2, hasty.append))
    assert (hasty, loop.now) == ([first], pytest.approx(1.5))
    pace.tell(first, is_alert=False)
    loop.run_until_complete(calm_round(pace, keys(2), calm.append))
    assert calm == [second, first, second]
