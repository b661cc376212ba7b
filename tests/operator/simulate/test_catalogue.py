"""The laws that Headrace keeps over the stress catalogue, with the function that runs in the operator."""

import itertools

import pytest
from headrace_operator.simulate.catalogue import BEGIN, CATALOGUE, END, WHOLE, Stress
from headrace_operator.simulate.comparison import Run, run
from headrace_operator.simulate.headrace import Headrace
from headrace_operator.simulate.policies import Case, made

STRESS = {stress.name: stress for stress in CATALOGUE}


@pytest.fixture(scope="module")
def ran() -> dict[str, Run]:
    """Each case once."""
    return {}


def headrace(ran: dict[str, Run], name: str) -> Run:
    if name not in ran:
        ran[name] = run(STRESS[name].comparison(), "headrace")
    return ran[name]


def test_the_policy_is_the_operators_own_function() -> None:
    comparison = STRESS["step x8"].comparison()
    case = Case(comparison.engine, comparison.requests, 90.0, 1.0, comparison.scaling, 2.0)
    assert isinstance(made("headrace", case), Headrace)


CALM = [name for name in STRESS if name not in {"step, start of 600 s", "retry storm", "room for 6", "one pod lies"}]


@pytest.mark.parametrize("name", CALM)
def test_no_reversal_storm(ran: dict[str, Run], name: str) -> None:
    """40 minutes with two changes of the load, on a policy that knows nothing at the beginning. Of 13 bursts the first
    few turn the number; those that are known do not."""
    assert headrace(ran, name).outcome.reversals <= 6


ORDERED_IN_PROPORTION = [
    "step x8", "ramp", "diurnal", "noise of 30 %", "spike of 10 s", "burst of 10 s every 3 min", "step, start of 10 s",
    "prompts x 10", "half of the capacity is lost",
]  # fmt: skip


@pytest.mark.parametrize("name", ORDERED_IN_PROPORTION)
def test_the_peak_is_at_most_half_more_than_needed(ran: dict[str, Run], name: str) -> None:
    assert headrace(ran, name).outcome.peak_replicas <= 1.5 * STRESS[name].need


def test_without_metrics_nobody_is_taken_away(ran: dict[str, Run]) -> None:
    ((begin, end),) = STRESS["outage of metrics"].faults.outages
    dark = [moment.desired for moment in headrace(ran, "outage of metrics").moments if begin <= moment.at < end]
    assert min(dark) == dark[0]


@pytest.mark.parametrize("name", ["step x8", "outage of metrics", "a tenth of the metrics lost", "prompts x 10"])
def test_recovery_is_bounded(ran: dict[str, Run], name: str) -> None:
    """One start, and what the queue of that time takes to go: nobody waits ten minutes after the load came."""
    late = [moment.waiting for moment in headrace(ran, name).moments if BEGIN + 600 <= moment.at < END]
    assert sorted(late)[len(late) // 2] < 50


def test_who_says_that_it_comes_again_is_ordered_for_once(ran: dict[str, Run]) -> None:
    told, untold = headrace(ran, "step x8").outcome, headrace(ran, "step x8, untold retries").outcome
    assert told.peak_replicas <= 1.5 * STRESS["step x8"].need < untold.peak_replicas
    assert told.replica_hours < untold.replica_hours


def test_noise_turns_the_number_four_times_an_hour_at_most(ran: dict[str, Run]) -> None:
    """Once it knows what a replica carries."""
    wanted = [moment.desired for moment in headrace(ran, "noise of 30 %").moments if moment.at >= BEGIN]
    steps = [after - before for before, after in itertools.pairwise(wanted) if after != before]
    turns = sum((before > 0) is not (after > 0) for before, after in itertools.pairwise(steps))
    assert turns <= 4 * (WHOLE - BEGIN) / 3600


def test_a_full_cluster_is_no_reason_to_order_without_end(ran: dict[str, Run]) -> None:
    stress: Stress = STRESS["room for 6"]
    assert headrace(ran, "room for 6").outcome.peak_replicas <= 2 * stress.need


def test_it_goes_down_again(ran: dict[str, Run]) -> None:
    last = [moment.desired for moment in headrace(ran, "step x8").moments if moment.at > WHOLE - 60]
    assert max(last) <= 5


def test_what_a_spike_ordered_is_given_back_before_it_is_ready(ran: dict[str, Run]) -> None:
    """But for what was asked for while nobody knew what a replica carries: that is held for the window."""
    moments = [(moment.at - BEGIN, moment.desired) for moment in headrace(ran, "spike of 10 s").moments]
    assert max(desired for at, desired in moments if 0 < at < 20) >= STRESS["spike of 10 s"].need
    assert max(desired for at, desired in moments if 60 < at < 300) <= 8
    assert max(desired for at, desired in moments if 400 < at < 800) <= 4


def test_the_same_seed_gives_the_same_run() -> None:
    stress = STRESS["noise of 30 %"]
    assert run(stress.comparison(), "keda").outcome == run(stress.comparison(), "keda").outcome


@pytest.mark.parametrize(
    "name", ["step x8", "diurnal", "noise of 30 %", "spike of 10 s", "burst of 10 s every 3 min", "step, start of 10 s"]
)
def test_no_peer_is_better_in_misses_and_in_hours_at_once(ran: dict[str, Run], name: str) -> None:
    """HPA on queue wait and Ray are the peers that come nearest."""
    ours = headrace(ran, name).outcome
    for peer in ("hpa-queue-wait", "ray"):
        theirs = run(STRESS[name].comparison(), peer).outcome
        assert ours.slo_miss_share < theirs.slo_miss_share or ours.replica_hours < theirs.replica_hours
