"""One simulated replica against what can be computed by hand."""

import math
from dataclasses import replace

import pytest
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.replica import Replica, Waits
from headrace_operator.simulate.traces import Request
from hypothesis import given
from hypothesis import strategies as st

# A step takes 10 ms and 1 ms a token, whatever the context.
ENGINE = Engine(overhead=0.01, seconds_per_token=0.001, seconds_per_kv_token=0.0, seconds_per_pair=0.0,
                tokens_per_step=100, slots=2, kv_tokens=1000, max_waiting=2)  # fmt: skip


def served(replica: Replica, waited: Waits) -> float:
    """Runs until it is idle; seconds at the end."""
    while replica.next_at < math.inf:
        replica.turn(waited)
    return replica.at


def test_a_prompt_takes_its_chunks_and_an_answer_its_steps() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    assert replica.arrive(Request(0.0, 200, 11), 0.0, waited) is None
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
    assert replica.sample(0.0).waiting == 2  # the first one's step was planned when they came
    served(replica, waited)
    assert waited[2][1] > 1.0  # 100 steps of 12 ms
    assert replica.finished == 3


def test_kv_room_holds_a_request_back_and_one_too_large_runs_alone() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    replica.arrive(Request(0.0, 600, 10), 0.0, waited)
    replica.arrive(Request(0.0, 5000, 10), 0.0, waited)
    replica.turn(waited)
    assert (replica.running, len(replica.waiting)) == (1, 1)
    served(replica, waited)
    assert replica.finished == 2
    assert replica.kv_used == 0


def test_beyond_max_waiting_requests_are_refused_and_counted_as_received() -> None:
    replica = Replica(ENGINE, 0.0)
    taken = [replica.arrive(Request(0.0, 100, 10), 0.0, []) for _ in range(5)]
    assert [again is None for again in taken] == [True, True, True, False, False]
    sample = replica.sample(0.0)
    assert (sample.received, sample.refused) == (5, 2)


def test_who_comes_again_is_counted_at_the_door_as_the_server_does() -> None:
    replica, again = Replica(ENGINE, 0.0), Request(0.0, 100, 10, is_again=True)
    taken = [replica.arrive(again, 0.0, []) for _ in range(5)]
    sample = replica.sample(0.0)
    assert (taken.count(None), sample.received, sample.refused, sample.retried) == (3, 5, 2, 5)


def test_who_hangs_up_gives_its_place_up_and_ends_without_tokens() -> None:
    replica, last = Replica(ENGINE, 0.0), Request(0.0, 100, 10)
    for request in (Request(0.0, 100, 10), Request(0.0, 100, 10), last):
        assert replica.arrive(request, 0.0, []) is None
    assert replica.arrive(Request(0.0, 100, 10), 0.0, []) is not None  # two wait, as many as may
    replica.drop(last)
    assert not replica.holds(last)
    assert (replica.sample(0.0).waiting, replica.sample(0.0).finished, replica.finished_tokens) == (1, 1, 0)
    assert replica.arrive(Request(0.0, 100, 10), 0.0, []) is None


def test_a_sample_is_what_the_operator_would_read() -> None:
    replica, waited = Replica(ENGINE, 0.0), list[tuple[float, float]]()
    for _ in range(3):
        replica.arrive(Request(0.0, 100, 50), 0.0, waited)
    served(replica, waited)
    sample = replica.sample(10.0)
    assert sample.queue_waits[-1] == (math.inf, 3.0)
    assert all(before[1] <= after[1] for before, after in zip(sample.queue_waits, sample.queue_waits[1:], strict=False))
    assert (sample.waiting, sample.running, sample.max_running) == (0, 0, 2)


def test_who_decodes_bears_a_step_of_at_most_two_and_a_quarter_times_the_usual() -> None:
    """A step with one answer takes 11 ms, so 13 prompt tokens of 1 ms may join it."""
    replica = Replica(ENGINE, 0.0)
    replica.arrive(Request(0.0, 1, 500), 0.0, [])
    replica.turn([])
    replica.arrive(Request(0.02, 130, 2), 0.02, [])
    replica.turn([])
    assert replica.step == pytest.approx(0.011 + 0.013)
    assert replica.next_at - replica.at == pytest.approx(10 * replica.step)


def test_without_an_answer_a_prompt_gets_the_whole_step() -> None:
    replica = Replica(ENGINE, 0.0)
    replica.arrive(Request(0.0, 100, 2), 0.0, [])
    assert replica.step == pytest.approx(0.01 + 0.1)


def test_several_prompts_share_a_step_that_has_room() -> None:
    engine, waited = replace(ENGINE, slots=4, max_waiting=4), list[tuple[float, float]]()
    replica = Replica(engine, 0.0)
    for _ in range(4):
        replica.arrive(Request(0.0, 30, 1), 0.0, waited)
    replica.turn(waited)
    assert replica.step == pytest.approx(0.01 + 0.09)
    assert [wait for _, wait in waited] == pytest.approx([0.0, 0.04, 0.04, 0.04])


@given(st.floats(0.0112, 0.9), st.floats(0.0, 0.01))
def test_who_comes_during_a_step_joins_the_next_one(at: float, hand_over: float) -> None:
    """Steps of one answer take 11 ms and end at whole multiples."""
    replica, waited = Replica(replace(ENGINE, hand_over=hand_over), 0.0), list[tuple[float, float]]()
    replica.arrive(Request(0.0, 1, 500), -hand_over, waited)
    replica.turn(waited)
    replica.arrive(Request(at, 1, 2), at, waited)
    replica.turn(waited)
    ((_, _), (_, wait)) = waited
    assert hand_over - 1e-9 <= wait <= hand_over + 0.011 + 1e-9
    assert (replica.at / 0.011) == pytest.approx(round(replica.at / 0.011), abs=1e-6)


def test_a_queue_that_takes_longer_than_half_of_the_longest_wait_refuses_and_says_when_to_come_again() -> None:
    """One after the other, each takes 1.1 s: when ten wait, the last of them begins in 11 s."""
    engine = replace(ENGINE, slots=1, max_waiting=100, max_wait=20.0)
    replica, now, hints = Replica(engine, 0.0), 0.0, list[float]()
    for index in range(60):
        now = 0.5 * index
        while replica.next_at <= now:
            replica.turn([])
        again = replica.arrive(Request(now, 1, 100), now, [])
        if again is not None:
            hints.append(again)
    assert replica.refused == len(hints) > 10
    assert min(hints) == pytest.approx(10.0, rel=0.2)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=30))
def test_everybody_is_served_once_and_every_token_is_counted(load: list[tuple[float, int, int]]) -> None:
    replica, waited = (
        Replica(replace(ENGINE, slots=4, max_waiting=100, max_wait=math.inf, kv_tokens=600), 0.0),
        list[tuple[float, float]](),
    )
    for request in sorted(Request(*each) for each in load):
        while replica.next_at <= request.at:
            replica.turn(waited)
        assert replica.arrive(request, request.at, waited) is None
    served(replica, waited)
    assert (replica.finished, replica.running, replica.queued, replica.kv_used) == (len(load), 0, 0, 0)
    assert replica.tokens == sum(prompt + generated - 1 for _, prompt, generated in load)
    assert len(waited) == len(load)
    assert min(wait for _, wait in waited) >= 0
