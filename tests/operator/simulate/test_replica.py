"""One simulated replica against what can be computed by hand."""

import math

import pytest
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.replica import Replica, Waits
from headrace_operator.simulate.traces import Request

# A step takes 10 ms and 1 ms a token, whatever the context.
ENGINE = Engine(overhead=0.01, seconds_per_token=0.001, seconds_per_kv_token=0.0, tokens_per_step=100, slots=2,
                kv_tokens=1000, max_waiting=2)  # fmt: skip


def served(replica: Replica, waited: Waits) -> float:
    """Runs until it is idle; seconds at the end."""
    while replica.next_at < math.inf:
        replica.turn(replica.next_at, waited)
    return replica.at


def test_a_prompt_takes_its_chunks_and_an_answer_its_steps() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    assert replica.arrive(Request(0.0, 200, 11), 0.0, waited)
    # Two full steps of 110 ms with the first token, then ten steps of one token, 11 ms each.
    assert served(replica, waited) == pytest.approx(0.22 + 0.11)
    assert (replica.finished, replica.finished_tokens, replica.running) == (1, 211, 0)
    assert replica.tokens == pytest.approx(210)
    assert waited == [(0.0, 0.0)]


def test_a_long_batch_makes_steps_longer() -> None:
    alone, beside = Replica(ENGINE, 0.0), Replica(ENGINE, 0.0)
    alone.arrive(Request(0.0, 1, 101), 0.0, [])
    beside.arrive(Request(0.0, 1, 101), 0.0, [])
    beside.arrive(Request(0.0, 1, 101), 0.0, [])
    assert served(beside, []) == pytest.approx(served(alone, []) + 0.1, rel=0.05)


def test_who_finds_no_slot_waits_for_one() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    for _ in range(3):
        replica.arrive(Request(0.0, 1, 101), 0.0, waited)
    assert replica.sample(0.0).waiting == 2  # one prompt at a time
    served(replica, waited)
    assert waited[2][1] > 1.0  # 100 steps of 12 ms
    assert replica.finished == 3


def test_kv_room_holds_a_request_back_and_one_too_large_runs_alone() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    replica.arrive(Request(0.0, 600, 10), 0.0, waited)
    replica.arrive(Request(0.0, 5000, 10), 0.0, waited)
    replica.turn(replica.next_at, waited)
    assert (replica.running, len(replica.waiting)) == (1, 1)
    served(replica, waited)
    assert replica.finished == 2
    assert replica.kv_used == 0


def test_beyond_max_waiting_requests_are_refused_and_counted_as_received() -> None:
    replica = Replica(ENGINE, 0.0)
    taken = [replica.arrive(Request(0.0, 100, 10), 0.0, []) for _ in range(5)]
    assert taken == [True, True, True, False, False]
    sample = replica.sample(0.0)
    assert (sample.received, sample.refused) == (5, 2)


def test_a_sample_is_what_the_operator_would_read() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    for _ in range(3):
        replica.arrive(Request(0.0, 100, 50), 0.0, waited)
    served(replica, waited)
    sample = replica.sample(10.0)
    assert sample.queue_waits[-1] == (math.inf, 3.0)
    assert all(before[1] <= after[1] for before, after in zip(sample.queue_waits, sample.queue_waits[1:], strict=False))
    assert (sample.waiting, sample.running, sample.max_running) == (0, 0, 2)
