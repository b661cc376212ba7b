"""The trend of the arrivals, and what may be ordered for it: only ever more."""

import math
from dataclasses import replace

import pytest
from headrace_operator.decide.forecast import DAMPING, STEP, UNKNOWN, Trend
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason, Signal
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.situation import look
from headrace_operator.service import Forecast
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, observed, scaling, signals

LOOK = 2.5  # seconds
START = 90.0  # seconds


def after(rates: list[float]) -> Trend:
    """`rates`: requests/s of each step."""
    trend = UNKNOWN.seen(0, NOW)
    for index in range(round(len(rates) * STEP / LOOK)):
        now = NOW + LOOK * (index + 1)
        trend = trend.seen(rates[int(index * LOOK / STEP)] * LOOK, now)
    return trend


def test_a_steady_load_stays_what_it_is() -> None:
    assert after([5.0] * 20).ahead(START) == pytest.approx(5.0)


def test_a_ramp_goes_on_but_less_and_less() -> None:
    trend = after([float(index) for index in range(40)])
    six_steps = trend.ahead(START)
    assert 39 < six_steps < 39 + 6
    assert trend.ahead(3600) - 39 < 1 / (1 - DAMPING)  # whatever the horizon


def test_two_minutes_are_needed_to_say_anything() -> None:
    assert after([5.0] * 7).ahead(START) is None


def test_a_silence_begins_anew() -> None:
    assert after([5.0] * 20).seen(100, NOW + 20 * STEP + 60).ahead(START) is None


@given(st.lists(st.floats(0, 1000), min_size=8, max_size=40), st.floats(0, 3600))
def test_never_less_than_nothing(rates: list[float], seconds: float) -> None:
    assert after(rates).ahead(seconds) >= 0


def decided(load: float, forecast: float | None, *, switch: Forecast = Forecast.TREND, ready: int = 10):
    seen = signals(ready, load=load)
    told = None if forecast is None else seen.arrivals * forecast
    pods = observed(ready)
    situation = look(scaling(forecast=switch), pods, replace(seen, forecast=told), History(desired=ready), NOW)
    return decide(situation)


def test_what_will_come_is_ordered_now_and_said_so() -> None:
    decision = decided(1.0, 1.3)
    assert (decision.replicas, decision.reason) == (13, Reason.LOAD_FORECAST)
    assert "are expected" in decision.message


def test_a_guess_orders_half_as_many_again_at_most() -> None:
    assert decided(1.0, 9.0).replicas == 15


def test_without_being_asked_it_orders_nothing() -> None:
    decision = decided(1.0, 1.3, switch=Forecast.DISABLED)
    assert (decision.replicas, decision.reason) == (10, Reason.STEADY)


@given(st.floats(0.01, 3), st.one_of(st.none(), st.floats(0, 3)))
def test_nobody_is_taken_away_for_what_may_come(load: float, forecast: float | None) -> None:
    without = decided(load, forecast, switch=Forecast.DISABLED)
    assert decided(load, forecast).replicas >= without.replicas
    for proposal in decided(load, forecast).proposals:
        if proposal.signal is Signal.FORECAST:
            assert proposal.replicas >= math.ceil(load * 10 - 1e-6)
