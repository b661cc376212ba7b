"""How many replicas, and what decided it: by tables, then what must hold for any load."""

import math
from dataclasses import replace

import pytest
from headrace_server.sizing.demand import Asked, Demand, busiest
from headrace_server.sizing.devices import CPU, NAMES, known
from headrace_server.sizing.replicas import Bound, Promise, Replica, fullest, size
from headrace_server.sizing.roofline import Speeds, decode_seconds, prompt_seconds
from headrace_server.telemetry.work import ModelWork
from hypothesis import given
from hypothesis import strategies as st

# Of Llama-3.1-8B in bfloat16: what the output matrix and the layers have, 128 KiB of KV a token.
LLAMA = ModelWork(2 * 6.98e9, 2 * 0.525e9, 4.0 * 32 * 32 * 128, 15.01e9, 131_072.0)
H200 = Speeds(4.8e12, 989e12)
REPLICA = Replica(LLAMA, H200, 16.06e9, 100e9, max_running=64)
EVEN = tuple(Asked(float(second), 1000, 200) for second in range(60))


def demand(rate: float = 1.0, asked: tuple[Asked, ...] = EVEN) -> Demand:
    return replace(busiest(asked, 60.0), rate=rate, arrival_variability=1.0)


@pytest.mark.parametrize(("context", "milliseconds"), [(0, 3.13), (1024, 4.02), (4096, 6.71), (8191, 10.29)])
def test_a_step_of_32_sequences_takes_what_reading_takes(context: int, milliseconds: float) -> None:
    assert 1000 * decode_seconds(LLAMA, H200, 32, context) == pytest.approx(milliseconds, rel=0.01)


@pytest.mark.parametrize(("tokens", "milliseconds"), [(1024, 14.9), (8192, 134.0)])
def test_a_prompt_takes_what_multiplying_takes(tokens: int, milliseconds: float) -> None:
    assert 1000 * prompt_seconds(LLAMA, H200, tokens) == pytest.approx(milliseconds, rel=0.02)


def test_overhead_is_added_to_every_step() -> None:
    slow = replace(H200, overhead=0.001, token_overhead=0.0001)
    assert decode_seconds(LLAMA, slow, 8, 100) == pytest.approx(decode_seconds(LLAMA, H200, 8, 100) + 0.0018)


@pytest.mark.parametrize(
    ("replica", "rate", "promise", "bound"),
    [
        pytest.param(REPLICA, 1.0, Promise(), Bound.UTILIZATION, id="nothing promised"),
        pytest.param(REPLICA, 200.0, Promise(wait=1e-4), Bound.WAIT, id="nobody may wait"),
        pytest.param(REPLICA, 20.0, Promise(ttft=0.025), Bound.FIRST_TOKEN, id="a first token soon"),
        pytest.param(REPLICA, 1.0, Promise(ttft=0.01), Bound.PROMPT_TOO_SLOW, id="the prompt alone takes longer"),
        pytest.param(REPLICA, 1.0, Promise(itl=0.001), Bound.TOKEN_TOO_SLOW, id="the weights alone take longer"),
        pytest.param(replace(REPLICA, cache=-1.0), 1.0, Promise(), Bound.WEIGHTS_TOO_LARGE, id="too small a device"),
        pytest.param(replace(REPLICA, cache=1e8), 1.0, Promise(), Bound.NO_ROOM_FOR_A_REQUEST, id="too small a cache"),
        pytest.param(REPLICA, 1e9, Promise(), Bound.TOO_MANY, id="no number is enough"),
    ],
)
def test_what_decides(replica: Replica, rate: float, promise: Promise, bound: Bound) -> None:
    found = size(replica, demand(rate), promise, 0.7)
    assert found.bound is bound
    possible = bound in {Bound.UTILIZATION, Bound.WAIT, Bound.FIRST_TOKEN}
    assert (found.replicas is not None) == possible
    assert found.why


def test_a_promise_between_tokens_takes_fewer_at_once() -> None:
    free, bound = (fullest(REPLICA, EVEN, itl) for itl in (None, 0.006))
    assert free is not None
    assert bound is not None
    assert bound.running < free.running == 64
    assert bound.token_seconds <= 0.006 < free.token_seconds


def test_the_cache_limits_how_many_run_together() -> None:
    full = fullest(replace(REPLICA, cache=10 * 1200 * 131_072.0), EVEN, None)
    assert full is not None
    assert full.running == 10


@pytest.mark.parametrize("share", [1.0, 1.0 - 1e-12, 1.0 + 1e-12])
def test_replicas_that_are_busy_all_the_time_are_too_few(share: float) -> None:
    alone = fullest(REPLICA, EVEN, None)
    assert alone is not None
    found = size(REPLICA, demand(share * 3 * alone.requests_per_second), Promise(), 1.0)
    assert found.wait is not None
    assert found.wait < math.inf


LOADS = st.lists(
    st.builds(Asked, st.floats(0, 300), st.integers(1, 4000), st.integers(1, 500)), min_size=1, max_size=40
).map(lambda asked: tuple(sorted(asked, key=lambda one: one.at)))


@given(LOADS, st.floats(0.01, 500), st.floats(0.2, 1.0))
def test_what_was_promised_holds_and_one_replica_fewer_would_not_do(
    asked: tuple[Asked, ...], rate: float, utilization: float
) -> None:
    load, promise = demand(rate, asked), Promise(wait=0.2, ttft=0.6)
    found = size(REPLICA, load, promise, utilization)
    assert found.full is not None
    if found.replicas is None:
        assert found.bound is Bound.PROMPT_TOO_SLOW
        return
    assert found.utilization is not None
    assert found.wait is not None
    assert found.ttft is not None
    assert found.utilization <= utilization * (1 + 1e-6)
    assert found.wait <= 0.2
    assert found.ttft <= 0.6 + 1e-9
    if found.replicas > 1 and found.bound is Bound.UTILIZATION:
        assert found.utilization * found.replicas / (found.replicas - 1) > utilization


@given(LOADS, st.floats(0.1, 100))
def test_more_load_never_needs_fewer_replicas(asked: tuple[Asked, ...], rate: float) -> None:
    less, more = (size(REPLICA, demand(each, asked), Promise(), 0.7).replicas for each in (rate, 1.5 * rate))
    assert less is not None
    assert more is not None
    assert less <= more


def test_the_busiest_window_is_the_one_with_the_most_tokens() -> None:
    calm = [Asked(float(second), 10, 10) for second in range(0, 300, 10)]
    burst = [Asked(200.0 + part / 10, 500, 50) for part in range(20)]
    found = busiest(sorted([*calm, *burst], key=lambda one: one.at), 60.0, scale=2.0)
    assert found.begin <= 200.0 <= found.begin + 60.0
    assert sum(one.prompt == 500 for one in found.asked) == 20
    assert found.rate == 2.0 * len(found.asked) / 60.0
    assert found.trace_answer_tokens == 2.0 * (30 * 10 + 20 * 50)


def test_a_trace_of_one_request_is_a_load() -> None:
    found = busiest([Asked(0.0, 10, 5)], 60.0)
    assert (found.rate, found.arrival_variability) == (1.0, 1.0)


def test_a_part_of_the_load_varies_more_as_chance_does() -> None:
    whole = replace(demand(10.0), arrival_variability=9.0)
    assert whole.part(0.25).rate == 2.5
    assert whole.part(0.25).arrival_variability == 3.0


def test_every_device_has_a_data_sheet() -> None:
    for name in set(NAMES) - {CPU}:
        device = known(name)
        assert 20e9 < device.memory < 200e9
        assert 2e11 < device.read < 1e13
        assert device.times(2).read == 2 * device.read
