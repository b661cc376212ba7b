"""Offline work: all that others leave, its reserve when they leave nothing, and no more than that."""

import random
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import pairwise
from typing import Any

import pytest
from example_counts import examples
from headrace_server.config import EngineConfig
from headrace_server.engine.backfill import QUIET
from headrace_server.engine.reserve import Crowding, OfflineReserve
from headrace_server.engine.reserve import Queue as Waits
from headrace_server.request import Finish, Priority, Request
from hypothesis import given
from hypothesis import strategies as st
from machines import Machine
from simulation import Simulated, request_at, simulated

WINDOW = 10.0  # seconds over which the share is promised
SECONDS = 25.0
SETTLED = 12.0  # seconds after which queues are full and times are learned
MACHINE = Machine(weights=0.008, sequence=0.0002, token=0.00005, read=0.0, gather=0.0)
GPU = Machine(weights=0.008, sequence=0.00003, token=0.00002, read=0.0, gather=0.0)
CAPACITY = 16 / 18  # requests that begin in a step of a full server: places by the tokens of an answer


def poisson(rate: float, seed: int, priority: Priority, prompt: int = 64, new: int = 32) -> Iterator[Request]:
    dice, time = random.Random(seed), 0.0
    while (time := time + dice.expovariate(rate)) < SECONDS:
        yield request_at(time, dice.randint(8, prompt), dice.randint(4, new), priority=priority)


def run(*streams: Iterable[Request], machine: Machine = MACHINE, **config: Any) -> Simulated:
    server = simulated(machine, **{"max_wait": 2.0, **config})
    server.run(merge(*streams, key=lambda request: request.arrived_at), SECONDS)
    return server


def online(rate: float = 400.0) -> Iterator[Request]:
    return poisson(rate, 1, Priority.INTERACTIVE)


def offline(rate: float = 100.0, **size: int) -> Iterator[Request]:
    return poisson(rate, 2, Priority.BATCH, **size)


def shares(server: Simulated) -> list[float]:
    """Of offline tokens, in every window of the settled time, one beginning each second."""
    found = []
    for tenth in range(int(SETTLED), int(SECONDS - WINDOW)):
        steps = [step for step in server.steps if tenth < step.ended <= tenth + WINDOW]
        found.append(sum(step.offline for step in steps) / sum(step.tokens for step in steps))
    return found


def ttft(server: Simulated, percent: float) -> float:
    times = sorted(
        life.ttft
        for life in server.lives.values()
        if life.request.priority is not Priority.BATCH and life.first_token and life.request.arrived_at > SETTLED
    )
    return times[int(len(times) * percent / 100)]


@pytest.mark.parametrize(
    ("reserve", "size"),
    [
        pytest.param(0.1, {}, id="the default"),
        pytest.param(0.3, {}, id="a large one"),
        pytest.param(0.05, {"prompt": 600, "new": 8}, id="a small one, and long prompts"),
    ],
)
def test_its_share_is_the_reserve_while_others_want_everything(reserve: float, size: dict[str, int]) -> None:
    server = run(online(), offline(**size), offline_reserve=reserve)
    assert shares(server) == pytest.approx([reserve] * len(shares(server)), abs=0.01)


def test_without_a_reserve_it_waits_for_a_gap() -> None:
    assert max(shares(run(online(), offline(), offline_reserve=0.0))) == 0


def test_it_has_everything_when_nobody_else_asks() -> None:
    assert set(shares(run(offline()))) == {1.0}
    alone, as_online = run(offline(200)), run(online(200))
    work = [sum(step.tokens for step in server.steps) for server in (alone, as_online)]
    assert work[0] > 0.9 * work[1], "and computes nearly as much as online work would"


def test_it_fills_what_online_work_leaves() -> None:
    """A machine that reads its weights in any step: one sequence more costs little."""
    light = run(online(20), machine=GPU)
    filled = run(online(20), offline(200), machine=GPU)
    assert sum(step.tokens for step in filled.steps) > 1.5 * sum(step.tokens for step in light.steps)
    assert min(shares(filled)) > 0.3


def test_it_has_the_gaps_between_online_requests() -> None:
    """A machine on which each sequence costs as much as any: beside others there is nothing to be had."""
    costly = Machine(weights=0.0, sequence=0.001, token=0.001, read=0.0, gather=0.0)
    server = run(online(8), offline(200), machine=costly)
    assert min(shares(server)) > 0.5


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("machine", [pytest.param(GPU, id="like a GPU"), pytest.param(MACHINE, id="like a CPU")])
def test_those_who_come_to_a_server_with_room_get_their_first_token_as_soon_as_without_it(
    machine: Machine, load: float
) -> None:
    rate = load * CAPACITY / machine.seconds(16)
    without, beside = run(online(rate), machine=machine), run(online(rate), offline(200), machine=machine)
    assert ttft(beside, 99) <= 1.05 * ttft(without, 99)
    assert max(shares(beside)) > 0, "offline work was done"


@pytest.mark.parametrize("machine", [pytest.param(GPU, id="like a GPU"), pytest.param(MACHINE, id="like a CPU")])
def test_a_server_that_is_nearly_full_is_not_filled_up_by_its_reserve(machine: Machine) -> None:
    rate = 0.95 * CAPACITY / machine.seconds(16)
    without, beside = (
        run(online(rate), *more, machine=machine, max_wait=EngineConfig().max_wait) for more in ((), (offline(200),))
    )
    assert ttft(beside, 99) <= 1.05 * ttft(without, 99)


@pytest.mark.parametrize(
    ("seconds", "full", "taken", "lasts"),
    [
        pytest.param(1.9, 0.1, 0.0, False, id="a burst"),
        pytest.param(2.1, 0.1, 0.0, True, id="many seconds of it"),
        pytest.param(6.0, 0.2, 0.5, False, id="that offline work made"),
        pytest.param(9.0, 0.3, 0.4, True, id="that it made the smaller part of"),
        pytest.param(1.0, 0.5, 1.0, True, id="a queue so full that others are sent away"),
    ],
)
def test_its_reserve_is_due_when_online_work_alone_fills_the_engine(
    seconds: float, full: float, taken: float, lasts: bool
) -> None:
    """Ten seconds of waiting, of which offline work took a share."""
    crowding = Crowding()
    for tenth in range(101):
        crowding.look(tenth / 10, Waits(True, seconds, full), taken)
    assert crowding.lasts is lasts
    crowding.look(10.1, Waits(False, 0.0, 0.0), taken)
    crowding.look(10.3, Waits(True, seconds, full), taken)
    assert not crowding.lasts, "it ends with the queue"


def test_a_request_that_comes_in_a_gap_waits_for_the_end_of_one_step_at_most() -> None:
    server = simulated(MACHINE)
    server.arrive(request_at(0.0, 16, 2))
    for _ in range(8):
        server.arrive(request_at(0.0, 16, 200, priority=Priority.BATCH))
    while server.scheduler.queue.any((Priority.BATCH,)):
        server.turn()
    step = server.scheduler.next_step(server.now)
    assert step is not None or server.in_flight
    assert server.scheduler.next_step(server.now) is None, "none of offline work alone is planned ahead"
    assert server.scheduler.next_step(server.now + QUIET) is not None, "but when nobody is expected to come"


def test_an_online_request_takes_the_place_of_offline_work_at_once() -> None:
    server = simulated(MACHINE, max_running=4)
    for _ in range(4):
        server.arrive(request_at(0.0, 16, 200, priority=Priority.BATCH))
    for _ in range(20):
        server.turn()
    assert server.scheduler.running == 4
    server.arrive(request_at(server.now, 16, 4))
    step = server.scheduler.next_step(server.now)
    assert step is not None
    assert [start.priority for start in step.starts] == [Priority.STANDARD]
    assert server.scheduler.preemptions == 1


def test_pages_of_offline_work_are_online_works_to_take() -> None:
    server = simulated(MACHINE, pages=20)  # of 16 tokens
    server.arrive(request_at(0.0, 200, 100, priority=Priority.BATCH))
    for _ in range(4):
        server.turn()
    server.arrive(request_at(server.now, 200, 4))
    server.run([], server.now + 30)
    first, second = server.lives.values()
    assert (first.sequence.finish, second.sequence.finish) == (Finish.LENGTH, Finish.LENGTH)
    assert second.ended is not None
    assert first.ended is not None
    assert second.ended < first.ended
    assert server.scheduler.preemptions > 0


@examples(100)
@given(st.floats(0.01, 0.5), st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), min_size=1, max_size=200))
def test_what_is_allowed_never_exceeds_what_is_owed(share: float, steps: list[tuple[int, int]]) -> None:
    reserve, total, taken = OfflineReserve(share, 8, 10_000), 0, 0
    for online_tokens, wanted in steps:
        offline_tokens = min(wanted, reserve.allowance)
        total, taken = total + online_tokens + offline_tokens, taken + offline_tokens
        reserve.planned(online_tokens + offline_tokens, offline_tokens, contested=True)
        assert taken <= share * total + 1
        assert reserve.allowance == pytest.approx(max(0, share * total - taken), abs=1.001)


def test_steps_are_told_in_order() -> None:
    """What `shares` counts on."""
    assert all(one.ended <= other.ended for one, other in pairwise(run(offline(20)).steps))
