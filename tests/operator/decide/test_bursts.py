"""What bursts of the last half hour ask for: a quantile over requests of the rate that each moment needed."""

import pytest
from headrace_operator.decide.bursts import QUIET, Bursts
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW

LOOK = 2.0  # seconds


def after(arrivals: list[int]) -> Bursts:
    """`arrivals`: requests between two looks."""
    bursts = QUIET.seen(0, NOW)
    for index, requests in enumerate(arrivals):
        bursts = bursts.seen(requests, NOW + LOOK * (index + 1))
    return bursts


def every(minutes: float, *, burst: int, length: int, base: int, hours: float = 0.5) -> list[int]:
    """`burst` requests a look for `length` looks, else `base`."""
    period = round(minutes * 60 / LOOK)
    return [burst if index % period >= period - length else base for index in range(round(hours * 3600 / LOOK))]


def test_a_steady_load_is_no_burst() -> None:
    assert after([6] * 900).usual() is None


def test_bursts_in_which_most_requests_come_are_kept_for() -> None:
    """40 requests/s for 10 s: 400 of them within 10 s wait at most 0.5 s if 38 a second are carried."""
    assert after(every(3, burst=80, length=5, base=2)).usual() == pytest.approx(400 / 10.5, rel=0.01)


def test_one_short_spike_of_few_requests_buys_nothing_for_later() -> None:
    arrivals = [8] * 600
    arrivals[300:305] = [64] * 5
    assert after(arrivals).usual() is None


def test_what_came_is_forgotten_after_half_an_hour() -> None:
    busy = after(every(3, burst=80, length=5, base=2))
    assert busy.usual()
    quiet = busy
    for index in range(950):
        quiet = quiet.seen(2, NOW + 1800 + LOOK * (index + 1))
    assert quiet.usual() is None


def test_less_than_a_minute_tells_nothing() -> None:
    assert after([0] * 10 + [80] * 5).usual() is None


def test_a_restart_keeps_the_rate() -> None:
    assert Bursts.restored(30.0, NOW).usual() == 30.0


@given(st.lists(st.integers(0, 50), min_size=40, max_size=200), st.integers(2, 5))
def test_k_times_the_requests_need_k_times_the_rate(arrivals: list[int], k: int) -> None:
    once, more = after(arrivals).usual(), after([k * requests for requests in arrivals]).usual()
    assert more == (None if once is None else pytest.approx(k * once))
