"""Which texts share a batch: urgent ones first, within what a batch holds, and offline ones never starve."""

from collections.abc import Sequence as Row

import pytest
from headrace_server.config import EngineConfig
from headrace_server.engine.embed_plan import Batch, Planner
from headrace_server.engine.sequence import Sequence
from headrace_server.request import Priority, Request
from hypothesis import given
from hypothesis import strategies as st

A, B, C = Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH


def text(tokens: int, priority: Priority = B, tenant: str = "", at: float = 0.0) -> Sequence:
    return Sequence(Request("x", (1,) * tokens, 0, arrived_at=at, priority=priority, tenant=tenant))


def planner(tokens: int = 10, texts: int = 4, reserve: float = 0.1) -> Planner:
    return Planner(EngineConfig(max_tokens_per_step=tokens, max_running=texts, offline_reserve=reserve))


def batches(plan: Planner, now: float = 0.0) -> list[Batch]:
    found = []
    while (batch := plan.take(now)) is not None:
        found.append(batch)
    return found


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([3], [[3]]),
        ([5, 5], [[5, 5]]),
        ([5, 5, 1], [[5, 5], [1]]),
        ([1, 1, 1, 1, 1], [[1, 1, 1, 1], [1]]),
        ([12, 1], [[12], [1]]),  # longer than a batch: one of its own
        ([1, 12, 1], [[1], [12], [1]]),
        ([6, 6, 4], [[6], [6, 4]]),
    ],
    ids=["nothing", "one", "a full one", "more than one", "many texts", "a long one", "one between", "none overtakes"],
)
def test_a_batch_holds_who_comes_next_as_long_as_they_fit(lengths: Row[int], expected: Row[Row[int]]) -> None:
    plan = planner()
    for length in lengths:
        plan.add(text(length))
    assert [[len(one.request.prompt) for one in batch.texts] for batch in batches(plan)] == expected


def test_a_batch_is_no_larger_than_pays() -> None:
    plan = Planner(EngineConfig(max_tokens_per_step=10), enough=4)
    for length in (2, 2, 2):
        plan.add(text(length))
    assert [batch.tokens for batch in batches(plan)] == [4, 2]


def test_the_urgent_come_first_and_offline_work_fills_what_is_left() -> None:
    plan = planner(tokens=4)
    for priority in (C, B, A):
        plan.add(text(2, priority))
    first, second = batches(plan, now=1.0)
    assert [one.request.priority for one in first.texts] == [A, B]
    assert [one.request.priority for one in second.texts] == [C]


def test_offline_work_gets_its_reserve_while_others_take_all_they_can() -> None:
    plan = planner(tokens=10, texts=10, reserve=0.2)
    offline = computed = 0
    for _ in range(200):
        for priority in (B, C):
            for _ in range(10):
                plan.add(text(1, priority))
        batch = plan.take(0.0)
        assert batch is not None
        computed += batch.tokens
        offline += sum(one.request.priority is C for one in batch.texts)
    assert 0.15 <= offline / computed <= 0.25


def test_tenants_that_wait_share() -> None:
    plan = planner(tokens=2, texts=2)
    for _ in range(50):
        plan.add(text(1, tenant="many"))
    plan.add(text(1, tenant="few"))
    first = plan.take(0.0)
    assert first is not None
    assert {one.request.tenant for one in first.texts} == {"many", "few"}


def test_one_that_is_dropped_waits_no_more() -> None:
    plan = planner()
    gone, stays = text(1), text(2)
    plan.add(gone)
    plan.add(stays)
    plan.drop(gone)
    assert [batch.texts for batch in batches(plan)] == [(stays,)]


def test_waits_are_counted_from_arrival_to_the_batch() -> None:
    plan = planner()
    one = text(1, at=2.0)
    plan.add(one)
    assert plan.oldest_waiting(5.0) == 3.0
    plan.take(6.0)
    assert one.queue_wait == 4.0
    assert (len(plan), plan.oldest_waiting(7.0)) == (0, 0.0)


TEXTS = st.tuples(st.integers(1, 15), st.sampled_from(Priority), st.sampled_from(["", "a", "b"]))


@given(st.lists(st.lists(TEXTS, max_size=8), max_size=8), st.sampled_from([0.0, 0.1, 0.5]))
def test_every_text_is_in_one_batch_and_no_batch_is_too_large(
    arrivals: list[list[tuple[int, Priority, str]]], reserve: float
) -> None:
    plan = planner(reserve=reserve)
    waiting: set[Sequence] = set()

    def take(now: float) -> None:
        batch = plan.take(now)
        assert (batch is None) == (not waiting)
        if batch is None:
            return
        lengths = [len(one.request.prompt) for one in batch.texts]
        assert batch.tokens == sum(lengths)
        assert len(lengths) == 1 or (sum(lengths) <= 10 and len(lengths) <= 4)
        assert waiting >= set(batch.texts)
        assert len(set(batch.texts)) == len(batch.texts)
        waiting.difference_update(batch.texts)

    for now, group in enumerate(arrivals):
        for length, priority, tenant in group:
            one = text(length, priority, tenant, at=float(now))
            waiting.add(one)
            plan.add(one)
        take(float(now))
    while waiting:
        take(float(len(arrivals)))
    assert plan.take(99.0) is None
