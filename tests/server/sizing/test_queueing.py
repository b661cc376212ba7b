"""How long one waits: against known values, and what must hold whatever the numbers are."""

import math
import random

import pytest
from headrace_server.sizing.queueing import wait, waiting_share
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("servers", "offered", "share"),
    [
        pytest.param(1, 0.5, 0.5, id="one server: as often as it is busy"),
        pytest.param(2, 1.0, 1 / 3, id="two servers, half busy"),
        pytest.param(10, 8.0, 0.4092, id="ten servers, from the table of Erlang's C"),
        pytest.param(3, 3.0, 1.0, id="no rest"),
        pytest.param(500, 100.0, 0.0, id="far too many"),
    ],
)
def test_who_finds_all_servers_busy(servers: int, offered: float, share: float) -> None:
    assert waiting_share(servers, offered) == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("servers", "rate", "variability", "seconds"),
    [
        # M/M/1 at half: P(W > t) = 0.5 exp(-0.5 t), so 0.05 at ln(10) / 0.5.
        pytest.param(1, 0.5, 1.0, math.log(10) / 0.5, id="chance"),
        pytest.param(1, 0.5, 0.5, math.log(10), id="services of equal length: half of it"),
        pytest.param(4, 0.5, 1.0, 0.0, id="nearly nobody waits"),
        pytest.param(1, 1.0, 1.0, math.inf, id="the queue only grows"),
    ],
)
def test_seconds_within_which_nineteen_of_twenty_begin(
    servers: int, rate: float, variability: float, seconds: float
) -> None:
    assert wait(servers, rate, 1.0, variability, 0.95) == pytest.approx(seconds)


@given(st.integers(1, 200), st.floats(0.01, 300), st.floats(0.001, 10), st.floats(0, 5))
def test_more_servers_never_make_anybody_wait_longer(
    servers: int, rate: float, service: float, variability: float
) -> None:
    fewer, more = (wait(number, rate, service, variability, 0.95) for number in (servers, servers + 1))
    assert 0 <= more <= fewer


@given(st.integers(1, 50), st.floats(0.01, 0.95))
def test_erlangs_share_is_a_share_and_at_most_the_load_of_one_server(servers: int, load: float) -> None:
    share = waiting_share(servers, servers * load)
    assert 0 <= share <= load + 1e-12


def test_a_played_queue_waits_as_long_as_it_says() -> None:
    """Three servers, chance arrivals, services of one length: what Allen and Cunneen only approximate."""
    dice, free, waits, now = random.Random(1), [0.0] * 3, [], 0.0
    for _ in range(100_000):
        now += dice.expovariate(2.4)
        first = free.index(min(free))
        begin = max(now, free[first])
        waits.append(begin - now)
        free[first] = begin + 1.0
    waits.sort()
    assert wait(3, 2.4, 1.0, 0.5, 0.95) == pytest.approx(waits[95_000], rel=0.15)
