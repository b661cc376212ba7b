"""Pods that a ResourceQuota refuses are asked for again, but not at every look."""

import pytest
from headrace_operator.decide.refusal import LONGEST, Refusal, refused
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, observed, pod

WORDS = "exceeded quota: gpus"


def told(at: float = NOW, before: Refusal | None = None, pods: int = 2, generation: int = 1) -> Refusal:
    return refused(before, WORDS, observed(pods), generation, at)


@pytest.mark.parametrize(
    ("later", "pods", "generation", "holds"),
    [
        pytest.param(1.9, 2, 1, True, id="not at the next look"),
        pytest.param(2.0, 2, 1, False, id="but two seconds later"),
        pytest.param(1.0, 1, 1, False, id="at once when a pod is gone"),
        pytest.param(1.0, 3, 1, True, id="one more gives nothing back"),
        pytest.param(1.0, 2, 2, False, id="at once after an edit"),
    ],
)
def test_when_it_is_asked_again(later: float, pods: int, generation: int, holds: bool) -> None:
    assert told().holds(observed(pods), generation, NOW + later) is holds


def test_a_pod_that_another_one_replaced_is_gone() -> None:
    assert not told(pods=1).holds(observed(0, pod(7)), 1, NOW + 1)


def test_the_pause_doubles_and_begins_anew_when_something_has_changed() -> None:
    pauses, before = [], None
    for _ in range(7):
        before = told(before=before)
        pauses.append(before.delay)
    assert pauses == [2, 4, 8, 16, 30, 30, 30]
    assert told(before=before, pods=1).delay == 2
    assert told(before=before, generation=2).delay == 2


@given(st.floats(0.2, 5.0))
def test_half_an_hour_of_looks_makes_few_tries(interval: float) -> None:
    tries, before = 0, None
    for look in range(int(1800 / interval)):
        now = NOW + look * interval
        if before is None or not before.holds(observed(2), 1, now):
            before, tries = told(now, before), tries + 1
    assert 1800 / (LONGEST + interval) <= tries <= 1800 / LONGEST + 6
