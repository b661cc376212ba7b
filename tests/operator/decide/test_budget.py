"""Who gets the GPUs of a namespace."""

from dataclasses import replace

import pytest
from headrace_operator.decide.budget import Holding, cap, standby_room
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.situation import Situation, look
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, observed, scaling, signals


def holding(replicas: int, *, least: int = 1, gpus: int = 1, beside: int = 0, wanting: int = 0) -> Holding:
    """`beside`: pods that are there; `wanting`: those that are not there yet."""
    return Holding(gpus=gpus, min_replicas=least, replicas=replicas, beside=beside + wanting, wanting=wanting)


@pytest.mark.parametrize(
    ("budget", "own", "others", "expected"),
    [
        pytest.param(8, holding(2), [], 8, id="alone, all of it"),
        pytest.param(8, holding(2), [holding(3)], 5, id="what the others do not hold"),
        pytest.param(8, holding(2), [holding(1, least=4)], 4, id="what another lacks of its minimum is not for growth"),
        pytest.param(4, holding(1, least=4), [holding(1, least=4)], 3, id="but a minimum does not wait for another's"),
        pytest.param(8, holding(1, gpus=4), [holding(3)], 1, id="five GPUs are one replica of four"),
        pytest.param(8, holding(2, beside=1), [], 7, id="a standby holds a GPU, too"),
        pytest.param(8, holding(2), [holding(1, beside=2)], 5, id="what still drains is not free"),
        pytest.param(2, holding(5), [holding(3)], 5, id="a lowered budget takes nothing away"),
        pytest.param(2, holding(0), [holding(2)], 1, id="never none at all"),
        pytest.param(2, holding(3, gpus=0), [], None, id="a CPU deployment has no budget"),
    ],
)
def test_the_cap(budget: int, own: Holding, others: list[Holding], expected: int | None) -> None:
    assert cap(budget, own, others) == expected


@pytest.mark.parametrize(
    ("budget", "own", "others", "expected"),
    [
        pytest.param(8, holding(2, wanting=1), [], 6, id="alone, all that is left"),
        pytest.param(3, holding(2, wanting=1), [], 1, id="just enough"),
        pytest.param(2, holding(2, wanting=1), [], 0, id="the replicas have it all"),
        pytest.param(2, holding(1, beside=1, wanting=1), [], 0, id="a standby that is there has its place"),
        pytest.param(4, holding(1, wanting=1), [holding(3)], 0, id="the others have it"),
        pytest.param(5, holding(1, wanting=1), [holding(1, least=4)], 0, id="a minimum comes before a standby"),
        pytest.param(3, holding(1, wanting=1), [holding(1, wanting=1)], 1, id="two want the last place: one gets it"),
        pytest.param(3, holding(1, wanting=1), [holding(1, beside=1)], 0, id="and then the other does not"),
        pytest.param(9, holding(1, gpus=4, wanting=2), [], 1, id="five GPUs are one standby of four"),
        pytest.param(1, holding(5, wanting=1), [], 0, id="a lowered budget"),
        pytest.param(1, holding(1, gpus=0, wanting=1), [], None, id="a CPU deployment has no budget"),
    ],
)
def test_the_room_for_standby_pods(budget: int, own: Holding, others: list[Holding], expected: int | None) -> None:
    assert standby_room(budget, own, others) == expected


holdings = st.builds(
    holding,
    st.integers(0, 9),
    least=st.integers(1, 6),
    gpus=st.sampled_from([1, 1, 2, 8]),
    beside=st.integers(0, 2),
)


@given(st.integers(0, 60), st.lists(holdings, min_size=1, max_size=5), st.lists(st.integers(0, 20), min_size=30))
def test_growth_never_leaves_the_budget_and_settles(budget: int, all_: list[Holding], wishes: list[int]) -> None:
    """One after the other, each orders what it wishes within its cap; then they wish the same again."""
    floor = sum(max(1, one.replicas) * one.gpus + one.beside * one.gpus for one in all_)
    wanted = dict(enumerate(wishes))
    for round_ in range(3):
        before = list(all_)
        for index, own in enumerate(all_):
            allowed = cap(budget, own, [other for place, other in enumerate(all_) if place != index])
            assert allowed is not None
            assert allowed >= max(1, own.replicas)
            all_[index] = replace(own, replicas=max(own.replicas, min(wanted[index], allowed)))
            assert sum(one.held for one in all_) <= max(budget, floor)
        assert round_ == 0 or all_ == before


def situation(allowed: int | None, *, load: float = 3.0, **policy: int) -> Situation:
    return replace(look(scaling(**policy), observed(4), signals(4, load=load), History(desired=4), NOW), budget=allowed)


@pytest.mark.parametrize(
    ("seen", "replicas", "reason"),
    [
        pytest.param(situation(None), 13, Reason.LOAD_ROSE, id="without a budget"),
        pytest.param(situation(6), 6, Reason.LOAD_ROSE, id="up to the budget"),
        pytest.param(situation(4), 4, Reason.OVER_BUDGET, id="no more than what runs"),
        pytest.param(situation(4, load=1.0, min_replicas=8), 4, Reason.OVER_BUDGET, id="not even the minimum"),
        pytest.param(situation(3, load=1.0), 3, Reason.OVER_BUDGET, id="one was lost, and its GPU is not given again"),
        pytest.param(situation(4, load=0.1), 1, Reason.LOAD_FELL, id="fewer is always allowed"),
    ],
)
def test_the_budget_is_the_last_word(seen: Situation, replicas: int, reason: Reason) -> None:
    decision = decide(seen)
    assert (decision.replicas, decision.reason) == (replicas, reason)


def test_a_budget_that_is_used_up_is_told_with_what_would_be_used() -> None:
    assert decide(situation(4)).message.startswith(
        "4 replicas: the GPU budget of the namespace allows 4; 840 tok/s arrive"
    )


@given(st.integers(0, 60), st.lists(holdings, min_size=1, max_size=5))
def test_standby_pods_never_leave_the_budget(budget: int, all_: list[Holding]) -> None:
    """One after the other, each makes as many as it has room for."""
    taken = sum(one.taken for one in all_)
    for index, own in enumerate(all_):
        room = standby_room(budget, own, [other for place, other in enumerate(all_) if place != index])
        assert room is not None
        all_[index] = replace(own, beside=own.beside - own.wanting + room, wanting=0)
    assert sum(one.taken for one in all_) <= max(budget, taken)
