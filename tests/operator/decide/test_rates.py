import random
from itertools import accumulate

import pytest
from headrace_operator.decide.rates import increase, measured
from headrace_operator.decide.values import PodSample
from hypothesis import given
from hypothesis import strategies as st
from observations import sample


def arrivals(pods: list[tuple[PodSample, ...]]) -> float | None:
    return measured(pods).arrivals


def series(counts: list[float], *, every: float = 2.0, start: float = 0.0) -> tuple[PodSample, ...]:
    return tuple(sample(at=start + every * index, received=count) for index, count in enumerate(counts))


def growing(rates: list[float]) -> tuple[PodSample, ...]:
    """One sample every 2 s; each rate holds for one interval."""
    counts = [0.0]
    for per_second in rates:
        counts.append(counts[-1] + 2 * per_second)
    return series(counts)


def test_one_sample_is_no_rate() -> None:
    assert measured([series([5])]).throughput is None
    assert arrivals([series([5])]) is None
    assert arrivals([]) is None


def test_no_requests_is_a_rate_of_zero() -> None:
    assert arrivals([series([7, 7, 7])]) == 0


def test_a_restarted_process_starts_from_zero_and_loses_nothing_after() -> None:
    assert increase(series([100, 110, 4, 6]), lambda s: s.received) == 10 + 4 + 2


def test_work_that_moves_to_another_pod_is_not_counted_twice() -> None:
    old = growing([8, 8, 8, 4, 4])
    new = series([0, 8, 16], start=6.0)
    assert arrivals([old, new]) == pytest.approx(8)


@pytest.mark.parametrize("pods", [1, 4])
def test_an_eightfold_step_is_seen_whole_after_two_ticks(pods: int) -> None:
    steady = [1.0] * 5
    assert arrivals([growing([*steady, 8])] * pods) > 3 * pods
    assert arrivals([growing([*steady, 8, 8])] * pods) == pytest.approx(8 * pods)


def test_noise_around_a_steady_rate_is_no_step() -> None:
    rng = random.Random(7)
    for _ in range(200):
        noisy = [5 * rng.uniform(0.7, 1.3) for _ in range(7)]
        assert arrivals([growing(noisy)]) == pytest.approx(sum(noisy) / 7)


@pytest.mark.parametrize("late", [-0.3, 0.3])
def test_pods_scraped_a_little_apart_speak_about_the_same_seconds(late: float) -> None:
    """A pod whose sample came just after the cut must not bring the two seconds before it, too."""
    one = growing([1, 1, 1, 1, 1, 8, 8])
    other = tuple(sample(at=entry.at + (late if entry.at == 10 else 0), received=entry.received) for entry in one)
    assert arrivals([one, other]) == pytest.approx(16, rel=0.1)


def test_load_that_began_within_the_last_seconds_is_a_rate_at_any_spacing_of_the_looks() -> None:
    """All of the window came lately: what is left for the time before is nothing, and never less by rounding."""
    rng = random.Random(1)
    for _ in range(2000):
        at, counts = rng.random() * 1000, [5.0] * 6 + [5.0 + 3 * rng.randint(1, 50)]
        counts.append(2 * counts[-1] - 5.0)
        looked = []
        for count in counts:
            looked.append(sample(at=at, received=count))
            at += 2 + rng.random() / 100
        assert arrivals([tuple(looked)]) > 0


@given(st.lists(st.lists(st.floats(0, 1000), min_size=1, max_size=12), max_size=4))
def test_rates_are_the_same_where_it_is_known_that_no_counter_fell(gained: list[list[float]]) -> None:
    pods = [series(list(accumulate(each))) for each in gained]
    assert measured(pods, is_one_process=True) == measured(pods)
