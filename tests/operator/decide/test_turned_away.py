"""A request is demand once: it was refused here, and comes again there."""

from dataclasses import replace

import pytest
from headrace_operator.decide.history import History
from headrace_operator.decide.signals import measure
from headrace_operator.decide.turned_away import NOBODY, PATIENCE, TurnedAway
from headrace_operator.decide.values import Observed
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, pod, sample

LOOK = 2.0  # seconds


def arrivals(refused_here: float, came_there: float, told_there: float, looks: int = 40) -> float | None:
    """Requests/s of two pods. Each look one refuses so many, and the other takes some in, of which some tell."""
    history = History(desired=2)
    signals = None
    for look in range(looks):
        at = NOW + LOOK * look
        full = sample(at, received=refused_here * look, refused=refused_here * look)
        other = sample(at, received=came_there * look, retried=told_there * look)
        pods = (replace(pod(0), sample=full), replace(pod(1), sample=other))
        history, signals = measure(Observed(pods), history, at)
    assert signals is not None
    return signals.arrivals


@pytest.mark.parametrize(
    ("refused", "came", "told", "expected"),
    [
        pytest.param(0, 10, 0, 5.0, id="nobody is refused"),
        pytest.param(8, 8, 8, 4.0, id="all come again and say so"),
        pytest.param(8, 8, 0, 8.0, id="all come again and nobody says so"),
        pytest.param(8, 8, 4, 6.0, id="half of them say so"),
        pytest.param(8, 18, 8, 9.0, id="among others who are new"),
        pytest.param(0, 10, 10, 5.0, id="they say so, and nobody was refused"),
        pytest.param(2, 10, 10, 5.0, id="more say so than were refused"),
        pytest.param(8, 0, 0, 4.0, id="nobody comes again"),
    ],
)
def test_of_those_who_come_again_so_many_count_as_were_not_refused(
    refused: float, came: float, told: float, expected: float
) -> None:
    assert arrivals(refused, came, told) == pytest.approx(expected)


def test_the_burst_and_the_step_are_seen_without_second_tries() -> None:
    """A hundred are refused in one look, and all of them come again in another: that is one burst, not two."""
    history, burst = History(desired=1), []
    for look in range(60):
        at, refused, again = NOW + LOOK * look, 100.0 * (look >= 40), 100.0 * (look >= 50)
        load = sample(at, received=10.0 * look + refused + again, refused=refused, retried=again)
        history, signals = measure(Observed((replace(pod(0), sample=load),)), history, at)
        burst.append(signals.arrivals)
    assert burst[40] == pytest.approx(55.0 / 2, rel=0.1)  # 110 and 10 in the newest 4 s
    assert burst[50] == burst[59] == pytest.approx(5.0)


def test_who_comes_after_a_long_time_is_new() -> None:
    away = NOBODY.seen(refused=3, retried=0, at=NOW).seen(refused=0, retried=3, at=NOW + PATIENCE)
    assert (away.newest, away.outside) == (0, ())
    assert NOBODY.seen(refused=3, retried=0, at=NOW).seen(refused=0, retried=2, at=NOW + PATIENCE - 1).newest == 2


counts = st.integers(0, 50)


@given(st.lists(st.tuples(counts, counts, st.floats(0.5, 60.0)), max_size=60))
def test_never_more_second_tries_than_refusals_before(looks: list[tuple[int, int, float]]) -> None:
    away, at, refused, back = TurnedAway(), NOW, 0, 0.0
    for turned_away, retried, seconds in looks:
        at += seconds
        away = away.seen(turned_away, retried, at)
        back += away.newest
        assert away.newest <= retried
        assert back <= refused
        refused += turned_away
