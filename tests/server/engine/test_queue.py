"""Who is next: classes age by weight, tenants share by tokens, and inside a tenant who came first is first."""

from collections.abc import Sequence as Listing

import pytest
from example_counts import examples
from headrace_server.engine.queue import ONLINE, REMEMBERED, WEIGHT, Waiting, longest_wait
from headrace_server.engine.sequence import Sequence
from headrace_server.request import Priority
from hypothesis import given
from hypothesis import strategies as st
from simulation import request_at

INTERACTIVE, STANDARD, BATCH = Priority
MAX_WAIT = 80.0
WEIGHTS = {"small": 1.0, "large": 3.0}


def a_queue(*sequences: Sequence, max_wait: float = MAX_WAIT) -> Waiting:
    queue = Waiting(max_wait, lambda tenant: WEIGHTS.get(tenant, 1.0))
    for number, sequence in enumerate(sequences):
        sequence.number = number
        queue.push(sequence)
    return queue


def one(at: float, priority: Priority = STANDARD, tenant: str = "", prompt: int = 10) -> Sequence:
    return Sequence(request_at(at, prompt, priority=priority, tenant=tenant))


def emptied(queue: Waiting, now: float) -> list[Sequence]:
    """In the order in which they begin; each gets its prompt computed and nothing else."""
    begun = []
    while (sequence := next(queue.order(now, ONLINE), None)) is not None:
        queue.begin(sequence)
        assert sequence.share is not None
        sequence.share.got(len(sequence.request.prompt))
        begun.append(sequence)
    return begun


@pytest.mark.parametrize(
    ("waited", "first"),
    [
        pytest.param({INTERACTIVE: 0, STANDARD: 0}, INTERACTIVE, id="nobody has waited: the more urgent class"),
        pytest.param({INTERACTIVE: 1, STANDARD: 1.9}, INTERACTIVE, id="a second counts twice as much"),
        pytest.param({INTERACTIVE: 1, STANDARD: 2.1}, STANDARD, id="more than twice the wait"),
        pytest.param({STANDARD: 0}, STANDARD, id="alone"),
    ],
)
def test_classes_age_by_their_weight(waited: dict[Priority, float], first: Priority) -> None:
    queue = a_queue(*(one(100.0 - seconds, priority) for priority, seconds in waited.items()))
    assert next(queue.order(100.0, ONLINE)).request.priority is first


def test_offline_work_is_in_an_order_of_its_own() -> None:
    queue = a_queue(one(0, BATCH), one(99))
    assert [sequence.request.priority for sequence in queue.order(100.0, ONLINE)] == [STANDARD]
    assert [sequence.request.priority for sequence in queue.order(100.0, (BATCH,))] == [BATCH]


def test_a_tenant_that_floods_the_queue_takes_turns_with_one_that_does_not() -> None:
    flood = [one(number / 100, tenant="flood") for number in range(50)]
    guest = [one(1 + number / 100, tenant="guest") for number in range(5)]
    begun = emptied(a_queue(*flood, *guest), now=2.0)
    assert [sequence.request.tenant for sequence in begun[:11]].count("guest") == 5


def test_tenants_share_by_their_weights() -> None:
    sequences = [one(number / 100, tenant=tenant) for number in range(60) for tenant in ("small", "large")]
    begun = emptied(a_queue(*sequences), now=2.0)
    assert [sequence.request.tenant for sequence in begun[:40]].count("large") == pytest.approx(30, abs=1)


def test_tokens_count_and_not_requests() -> None:
    sequences = [one(0, tenant="long", prompt=100) for _ in range(10)] + [one(0, tenant="short") for _ in range(100)]
    begun = emptied(a_queue(*sequences), now=1.0)
    assert [sequence.request.tenant for sequence in begun[:22]].count("long") in {2, 3}


def test_who_was_idle_has_saved_nothing_up() -> None:
    queue = a_queue(*(one(0, tenant="busy") for _ in range(20)))
    emptied(queue, now=1.0)
    for number in range(40):
        late = one(2, tenant=("idle", "busy")[number % 2])
        late.number = 100 + number
        queue.push(late)
    first = [sequence.request.tenant for sequence in emptied(queue, now=3.0)[:20]]
    assert first.count("idle") <= 11


def test_one_that_was_preempted_comes_back_to_the_place_that_its_arrival_gives_it() -> None:
    sequences = [one(number) for number in range(4)]
    queue = a_queue(*sequences)
    for sequence in sequences[:3]:
        queue.begin(sequence)
        sequence.queue_wait = 1.0
    for sequence in (sequences[0], sequences[2], sequences[1]):
        queue.push(sequence)
    assert emptied(queue, now=5.0) == sequences


def test_who_is_overdue_is_next_however_many_new_tenants_come() -> None:
    old = one(0, tenant="old", prompt=1000)
    queue = a_queue(old, *(one(1, tenant=f"tenant {number}") for number in range(50)))
    first = one(0, tenant="old")
    first.number = -1
    queue.push(first)
    queue.begin(first)
    assert first.share is not None
    first.share.got(5000)  # its tenant got more than anybody
    half = longest_wait(STANDARD, MAX_WAIT) / 2
    assert next(queue.order(half - 0.001, ONLINE)) is not old
    assert next(queue.order(half, ONLINE)) is old


def test_tenants_that_never_come_back_are_forgotten() -> None:
    queue = a_queue()
    for number in range(3 * REMEMBERED):
        queue.push(sequence := one(number, tenant=str(number)))
        queue.begin(sequence)
    assert len(queue._lanes[STANDARD]._idle) == REMEMBERED
    assert len(queue) == 0


requests = st.lists(
    st.tuples(st.floats(0, 10), st.sampled_from(Priority), st.sampled_from("abc"), st.integers(1, 50)), max_size=40
)


@examples(100)
@given(requests, st.data())
def test_counts_hold_and_everybody_leaves_once(
    asked: Listing[tuple[float, Priority, str, int]], what: st.DataObject
) -> None:
    sequences = [one(*each) for each in sorted(asked, key=lambda each: each[0])]
    queue = a_queue(*sequences)
    left = set(sequences)
    while left:
        sequence = what.draw(st.sampled_from(sorted(left, key=lambda each: each.number)))
        (queue.remove if what.draw(st.booleans()) else queue.begin)(sequence)
        left.remove(sequence)
        assert set(queue) == left
        for priority in Priority:
            of = [each for each in left if each.request.priority is priority]
            assert (queue.requests(priority), queue.tokens(priority)) == (len(of), sum(each.cost for each in of))


@examples(100)
@given(requests, st.floats(0, 2000))
def test_inside_a_tenant_and_class_the_first_one_is_first(
    asked: Listing[tuple[float, Priority, str, int]], later: float
) -> None:
    sequences = [one(*each) for each in sorted(asked, key=lambda each: each[0])]
    begun = emptied(a_queue(*sequences), now=10 + later)
    assert len(begun) == sum(each.request.priority in ONLINE for each in sequences)
    seen: dict[tuple[str, Priority], int] = {}
    for sequence in begun:
        key = (sequence.request.tenant, sequence.request.priority)
        assert seen.get(key, -1) < sequence.number
        seen[key] = sequence.number


def test_the_bound_of_a_class_follows_from_its_weight() -> None:
    assert [longest_wait(priority, 10.0) for priority in Priority] == [10.0, 20.0, 80.0]
    assert list(WEIGHT) == list(Priority)
