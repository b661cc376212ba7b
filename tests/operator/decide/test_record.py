"""What status keeps of a decision gives the same decision again."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import record
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import Policy, Situation, Stuck, Supply, look
from headrace_operator.errors import InvalidRecord
from headrace_operator.service import Mode
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, observed, scaling, signals


def without_nothing(found: Any) -> Any:
    """As a merge patch leaves it at the API server: None removes its key."""
    if isinstance(found, dict):
        return {key: without_nothing(value) for key, value in found.items() if value is not None}
    return found


def stored(situation: Situation) -> dict[str, Any]:
    return json.loads(json.dumps(without_nothing(record.inputs(situation))))


numbers = st.floats(0, 1e9, allow_subnormal=False)
counts = st.integers(0, 5000)
replicas = st.integers(1, 1000)
policies = st.builds(
    lambda least, most, **others: Policy(min_replicas=min(least, most), max_replicas=max(least, most), **others),
    mode=st.sampled_from(Mode),
    least=replicas,
    most=replicas,
    queue_wait_target=st.floats(0.001, 100),
    utilization=st.integers(1, 100).map(lambda percent: percent / 100),
    scale_down_window=st.floats(0, 3600),
    metrics_hold=st.floats(0, 3600),
    idle_timeout=st.none() | st.floats(1, 3600),
    metrics_fallback=st.none() | replicas,
    replicas=st.none() | st.integers(0, 1000),
    schedules=st.lists(st.sampled_from(["office", "launch"])).map(tuple),
)
measured = st.builds(
    Signals,
    asked=st.integers(0, 20),
    answered=st.integers(0, 20),
    arrivals=st.none() | numbers,
    throughput=st.none() | numbers,
    work_per_request=st.none() | numbers,
    capacity=st.none() | st.floats(0.001, 1e6),
    waiting=counts,
    running=counts,
    max_running=st.integers(0, 256),
    queue_wait_p95=st.none() | numbers,
    typical_wait=st.none() | numbers,
    queue_drains_in=numbers | st.just(math.inf),
    ready_unchanged=numbers | st.just(math.inf),
    kv_held=numbers,
    held=counts,
    oldest_held=numbers,
)
stuck = st.builds(Stuck, st.integers(0, 9), st.text(max_size=20))
situations = st.builds(
    Situation,
    policy=policies,
    signals=measured,
    supply=st.builds(Supply, st.integers(0, 20), st.lists(st.integers(0, 900), max_size=9).map(tuple), stuck, stuck),
    current=st.integers(0, 1000),
    start_time=numbers,
    peak=st.none() | replicas,
    peak_ago=numbers,
    lowered_ago=st.none() | numbers,
    silent_for=numbers,
    budget=st.none() | replicas,
    idle_for=numbers,
    has_served=st.booleans(),
)


@given(situations)
def test_the_record_gives_the_same_decision_again(situation: Situation) -> None:
    again = record.situation(stored(situation))
    assert again == situation
    assert decide(again) == decide(situation)


def test_the_numbers_of_a_decision_are_those_that_a_reader_sees() -> None:
    """Rounded before the decision: a third of a token more or less is in nobody's measurement."""
    history = replace(History(desired=4, lowered_at=NOW - 1000 / 3), startups=(100 / 3,))
    inputs = record.inputs(look(scaling(), observed(4), signals(4, load=1.0), history, NOW))
    assert inputs["memory"]["startTimeSeconds"] == "33.33"
    assert inputs["memory"]["loweredSecondsAgo"] == "333.3"
    assert inputs["load"]["capacityTokensPerSecond"] == "100"
    assert inputs["load"]["readyUnchangedSeconds"] == "inf"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda inputs: inputs.pop("supply"), id="a group is missing"),
        pytest.param(lambda inputs: inputs["memory"].pop("current"), id="a number is missing"),
        pytest.param(lambda inputs: inputs["policy"].update(mode="Sometimes"), id="an unknown mode"),
        pytest.param(lambda inputs: inputs["load"].update(queueDrainsInSeconds="soon"), id="no number"),
    ],
)
def test_a_record_of_another_version_is_refused(broken: Any) -> None:
    inputs = stored(look(scaling(), observed(4), signals(4, load=1.0), History(desired=4), NOW))
    broken(inputs)
    with pytest.raises(InvalidRecord, match="not as this version"):
        record.situation(inputs)
