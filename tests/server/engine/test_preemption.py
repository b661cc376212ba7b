"""Who is preempted: the least urgent, of these who loses least, of these who came last; never for nothing."""

import pytest
from headrace_server.engine.preemption import Stake, victim
from hypothesis import example, given
from hypothesis import strategies as st

stakes = st.lists(
    st.builds(Stake, lost=st.integers(0, 5), freed=st.integers(0, 3), priority=st.integers(-1, 2)), max_size=12
)


@pytest.mark.parametrize(
    ("running", "chosen"),
    [
        pytest.param([], None, id="nobody runs"),
        pytest.param([Stake(lost=9, freed=1)], 0, id="the only one: the caller says how many must stay"),
        pytest.param([Stake(lost=300, freed=2), Stake(lost=100, freed=1)], 1, id="the least work is lost"),
        pytest.param([Stake(lost=100, freed=1), Stake(lost=300, freed=9)], 0, id="not the one with the most pages"),
        pytest.param([Stake(lost=100, freed=1), Stake(lost=100, freed=1)], 1, id="equal work: the youngest"),
        pytest.param([Stake(lost=5, freed=0), Stake(lost=300, freed=1)], 1, id="one that shares all its pages stays"),
        pytest.param([Stake(lost=5, freed=0), Stake(lost=0, freed=0)], None, id="nobody would free a page"),
        pytest.param(
            [Stake(lost=900, freed=1, priority=0), Stake(lost=1, freed=1, priority=1)], 0, id="urgency before work"
        ),
        pytest.param(
            [Stake(lost=900, freed=1, priority=-1), Stake(lost=1, freed=1)], 0, id="a negative class is below 0"
        ),
        pytest.param(
            [Stake(lost=1, freed=0, priority=0), Stake(lost=1, freed=1, priority=7)],
            1,
            id="an urgent one when the others would free nothing",
        ),
    ],
)
def test_victim(running: list[Stake], chosen: int | None) -> None:
    assert victim(running) == chosen


@given(stakes)
@example([Stake(lost=1, freed=0)])
def test_somebody_is_chosen_when_that_frees_a_page(running: list[Stake]) -> None:
    chosen = victim(running)
    assert (chosen is not None) == any(stake.freed for stake in running)
    assert chosen is None or running[chosen].freed > 0


@given(stakes)
def test_nobody_would_have_been_better(running: list[Stake]) -> None:
    chosen = victim(running)
    if chosen is None:
        return
    victim_ = running[chosen]
    for index, other in enumerate(running):
        if other.freed and index != chosen:
            assert (victim_.priority, victim_.lost) <= (other.priority, other.lost)
            assert (victim_.priority, victim_.lost) != (other.priority, other.lost) or index < chosen, "the youngest"


@given(stakes.filter(lambda running: victim(running) is not None), st.data())
def test_those_who_free_nothing_change_nothing(running: list[Stake], where: st.DataObject) -> None:
    chosen = running[victim(running) or 0]
    position = where.draw(st.integers(0, len(running)))
    more = [*running[:position], Stake(lost=0, freed=0, priority=-9), *running[position:]]
    assert more[victim(more) or 0] is chosen


@given(stakes)
def test_preempting_until_one_is_left_spares_the_one_with_the_most_to_lose(running: list[Stake]) -> None:
    left = [stake for stake in running if stake.freed]
    if not left:
        return
    most = max((stake.priority, stake.lost) for stake in left)
    while len(left) > 1:
        chosen = victim(left)
        assert chosen is not None
        del left[chosen]
    assert (left[0].priority, left[0].lost) == most, "so somebody always comes to the end"
