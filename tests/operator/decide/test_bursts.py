"""What bursts of the last half hour ask for: the least rate that would have kept nine of ten requests from waiting."""

import pytest
from headrace_operator.decide.bursts import QUIET, Bursts
from headrace_operator.decide.history import History
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW

LOOK = 2.0  # seconds
WORK = 100.0  # tokens of a request


def after(arrivals: list[int], bursts: Bursts = QUIET, begin: float = NOW) -> Bursts:
    """`arrivals`: requests between two looks."""
    bursts = bursts.seen(0, begin, 0, 0)
    for index, requests in enumerate(arrivals):
        bursts = bursts.seen(requests, begin + LOOK * (index + 1), requests, WORK * requests)
    return bursts


def every(minutes: float, *, burst: int, length: int, base: int, hours: float = 0.5) -> list[int]:
    """`burst` requests a look for `length` looks, else `base`."""
    period = round(minutes * 60 / LOOK)
    return [burst if index % period >= period - length else base for index in range(round(hours * 3600 / LOOK))]


def test_a_steady_load_is_no_burst() -> None:
    assert after([6] * 900).usual() is None


def test_bursts_in_which_most_requests_come_are_kept_for() -> None:
    """40 requests/s for 10 s, 80 in a look: of 400 only the first look's 80 wait at most 0.5 s if 32 a second are
    carried, and with 38 a second all but a few."""
    needed = after(every(3, burst=80, length=5, base=2)).usual()
    assert needed is not None
    assert 34 < needed / WORK <= 400 / 10.5 * 1.02


def test_replicas_for_it_would_have_kept_all_but_a_tenth_from_waiting() -> None:
    """One burst of twenty is more than twice as high as the others, and holds less than a tenth of the requests."""
    usual = every(1.5, burst=40, length=5, base=4)
    once = list(usual)
    once[445:450] = [100] * 5
    assert after(once).usual() == pytest.approx(after(usual).usual(), rel=0.1)


def test_one_short_spike_of_few_requests_buys_nothing_for_later() -> None:
    arrivals = [8] * 600
    arrivals[300:305] = [64] * 5
    assert after(arrivals).usual() is None


def test_a_load_that_rises_and_stays_is_no_burst() -> None:
    assert after([4] * 300 + [64] * 600).usual() is None
    assert after([4] * 300 + [64] * 300 + [4] * 300).usual() is None


def test_what_came_is_forgotten_after_half_an_hour() -> None:
    busy = after(every(3, burst=80, length=5, base=2))
    assert busy.usual()
    assert after([2] * 1000, busy, NOW + 1800).usual() is None


def test_less_than_a_minute_tells_nothing() -> None:
    assert after([0] * 10 + [80] * 5).usual() is None


def test_a_restart_reads_it_back_from_the_status() -> None:
    status = {
        "capacity": {"tokensPerRequest": "100"},
        "lastDecision": {"inputs": {"load": {"burstTokensPerSecond": "3000"}}},
    }
    assert History.restored(status, 1, NOW).bursts.usual() == 3000.0


def test_a_restart_keeps_the_rate() -> None:
    restored = Bursts.restored(3000.0, WORK, NOW)
    assert restored.usual() == 3000.0
    assert after([2] * 60, restored).usual() == pytest.approx(3000.0, rel=0.05)


def test_a_few_long_requests_change_little() -> None:
    """Or the scale-down window would hold the highest of all the trembling."""
    busy = after(every(3, burst=80, length=5, base=2))
    needed = busy.usual()
    assert needed is not None
    longer = busy.seen(20, NOW + 1800 + LOOK, finished=20, tokens=20 * 3 * WORK)
    assert longer.usual() == pytest.approx(needed, rel=0.05)


def test_nobody_knows_when_within_a_silence_they_came() -> None:
    busy = after(every(3, burst=80, length=5, base=2))
    assert busy.seen(5000, NOW + 1800 + 60, 0, 0).usual() == busy.usual()


@given(st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 0.5, 2.0, 40.0]), st.integers(0, 80)), max_size=300))
def test_a_clock_that_stands_or_is_set_breaks_nothing(looks: list[tuple[float, int]]) -> None:
    bursts, now = after(every(3, burst=80, length=5, base=2)), NOW + 1800
    for seconds, requests in looks:
        now += seconds
        bursts = bursts.seen(requests, now, requests, WORK * requests)
    assert (bursts.usual() or 0.0) >= 0.0


def test_a_burst_between_two_looks_of_one_moment_has_a_rate() -> None:
    """Both looks of it are beside silences, of which nobody knows when within them requests came."""
    bursts, now = QUIET.seen(0, NOW, 0, 0), NOW
    for seconds, requests in [(2.0, 2)] * 40 + [(40.0, 0), (0.0, 400), (40.0, 0)] + [(2.0, 2)] * 100:
        now += seconds
        bursts = bursts.seen(requests, now, 2, 2 * WORK)
    assert bursts.usual()


@given(st.lists(st.integers(0, 50), min_size=100, max_size=300), st.integers(2, 5))
def test_k_times_the_requests_need_k_times_the_rate(arrivals: list[int], k: int) -> None:
    once, more = after(arrivals).usual(), after([k * requests for requests in arrivals]).usual()
    assert more == (None if once is None else pytest.approx(k * once, rel=0.03))


@given(st.lists(st.integers(0, 50), min_size=100, max_size=300))
def test_it_is_never_more_than_the_busiest_moment(arrivals: list[int]) -> None:
    assert (after(arrivals).usual() or 0.0) <= WORK * max(arrivals) / LOOK * 1.05
