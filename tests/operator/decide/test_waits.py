import math

import pytest
from headrace_operator.decide.rates import Series
from headrace_operator.decide.values import PodSample
from headrace_operator.decide.waits import drains_in, measured, merged, quantile
from hypothesis import given
from hypothesis import strategies as st
from observations import sample

BOUNDS = (0.1, 0.5, 1.0, 5.0, math.inf)


def p95(pods: list[Series]) -> float | None:
    return measured(pods).p95


def typical(pods: list[Series]) -> float | None:
    return measured(pods).typical


def histogram(*waits: float) -> tuple[tuple[float, float], ...]:
    return tuple((bound, float(sum(wait <= bound for wait in waits))) for bound in BOUNDS)


def pod(*waits: float, before: tuple[float, ...] = (), **now: float) -> tuple[PodSample, ...]:
    """Two samples, `waits` ended between them."""
    return (
        sample(at=0, received=len(before), queue_waits=histogram(*before)),
        sample(at=4, received=len(before) + len(waits), queue_waits=histogram(*before, *waits), **now),
    )


def test_only_waits_of_the_window_count() -> None:
    long_ago = (5.0,) * 100
    assert p95([pod(0.05, before=long_ago)]) == pytest.approx(0.095)


def test_nobody_waited_is_unknown() -> None:
    assert p95([pod()]) is None
    assert p95([]) is None


def test_interpolates_within_the_bucket() -> None:
    assert p95([pod(*[0.3] * 100)]) == pytest.approx(0.1 + 0.4 * 0.95)


def test_who_still_waits_counts_with_the_age_so_far() -> None:
    """A queue that stands still ends no wait."""
    assert p95([pod(waiting=20, oldest_waiting=8.0)]) == pytest.approx(7.6)
    assert p95([pod(*[0.05] * 10, waiting=20, oldest_waiting=8.0)]) > 5


def test_one_old_request_among_many_quick_ones_is_not_the_p95() -> None:
    assert p95([pod(*[0.05] * 200, waiting=1, oldest_waiting=8.0)]) <= 0.1


def test_a_process_that_restarted_begins_a_new_histogram() -> None:
    first = sample(at=0, received=100, queue_waits=histogram(*[5.0] * 100))
    new = sample(at=2, received=0, queue_waits=histogram())
    last = sample(at=4, received=2, queue_waits=histogram(0.05, 0.05))
    assert p95([(first, new, last)]) <= 0.1


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        pytest.param([(50, 50)], math.inf, id="stands"),
        pytest.param([(50, 60)], math.inf, id="grows"),
        pytest.param([(50, 40)], 16, id="10 fewer in 4 s, 40 to go"),
        pytest.param([(50, 0)], 0, id="is empty"),
        pytest.param([(50, 40), (0, 10)], math.inf, id="only moved to another pod"),
    ],
)
def test_queues_drain(waiting: list[tuple[int, int]], expected: float) -> None:
    pods = [(sample(at=0, waiting=before), sample(at=4, waiting=now)) for before, now in waiting]
    assert drains_in(pods) == pytest.approx(expected)


def test_a_backlog_on_few_pods_is_not_typical() -> None:
    stuck, fine = pod(waiting=100, oldest_waiting=60.0), pod(0.05)
    assert typical([stuck, fine]) < 0.1
    assert typical([stuck, stuck, fine]) > 50
    assert typical([]) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(waits: list[float], share: float) -> None:
    true = sorted(waits)[math.ceil(share * len(waits) - 1e-9) - 1]
    found = quantile(histogram(*waits), share)
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in BOUNDS if bound < true), default=0.0)
    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


counted = st.lists(st.floats(0, 10), max_size=40)
queues = st.one_of(st.none(), st.tuples(st.integers(1, 50), st.floats(0.001, 100)))


@given(st.lists(st.tuples(counted, counted, queues), min_size=1, max_size=6))
def test_adding_buckets_up_is_merging_histograms(
    pods: list[tuple[list[float], list[float], tuple[int, float] | None]],
) -> None:
    """What pods of one version show is added up bucket by bucket; it must say what the general way does."""
    series, apart = [], []
    for before, ended, queue in pods:
        waiting, oldest = queue or (0, 0.0)
        series.append(pod(*ended, before=tuple(before), waiting=waiting, oldest_waiting=oldest))
        apart += [histogram(*ended), ((oldest, float(waiting)),) if queue else ()]
    expected = quantile(merged(apart), 0.95)
    assert p95(series) == (None if expected is None else pytest.approx(expected))


def test_pods_that_count_in_other_buckets_are_merged() -> None:
    """A new version of the server may have finer ones."""
    finer = (sample(at=0), sample(at=4, received=20, queue_waits=((0.2, 10.0), (0.25, 20.0), (math.inf, 20.0))))
    assert p95([pod(*[0.05] * 20), finer]) == pytest.approx(
        quantile(merged([histogram(*[0.05] * 20), finer[1].queue_waits]), 0.95)
    )
    assert 0.2 < p95([pod(*[0.05] * 20), finer]) < 0.25
