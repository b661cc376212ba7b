"""The decision over time, against a fluid model of pods that take minutes to start. Nothing here sleeps."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from fluid import TICK, Fluid
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.status import Tick, status
from headrace_operator.decide.values import Observed
from observations import deployment, pod, sample, scaling

KNOWN = History(capacity=100.0, work_per_request=100.0)  # a replica: 10 slots, 10 s, 100 tokens a request
STEP_AT, STEP_UNTIL = 300.0, 2100.0
NEED = 12  # 8 requests/s x 100 tokens / (100 tok/s at 70 %)


def step(now: float) -> float:
    return 8.0 if STEP_AT <= now < STEP_UNTIL else 1.0


def fluid(load: Callable[[float], float], *, min_replicas: int = 2, max_replicas: int = 32, **changes: object) -> Fluid:
    policy = scaling(min_replicas=min_replicas, max_replicas=max_replicas)
    return Fluid(deployment(scaling=policy), load, history=changes.pop("history", KNOWN), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[90.0, 120.0], ids=["a start of 90 s", "a start of 120 s"])
def after_the_step(request: pytest.FixtureRequest) -> Fluid:
    """The scenario in which seven known autoscalers were compared: 1 -> 8 -> 1 requests/s, 120 s of cold start."""
    return fluid(step, cold_start=request.param).run(3000)


def desired_at(run: Fluid, now: float) -> int:
    return next(decision.replicas for at, decision in run.decisions if at >= now)


def test_an_eightfold_step_is_ordered_within_two_ticks(after_the_step: Fluid) -> None:
    assert desired_at(after_the_step, STEP_AT - TICK) == 2
    assert desired_at(after_the_step, STEP_AT + 2 * TICK) >= 0.95 * NEED


def test_the_backlog_of_a_cold_start_is_not_ordered_again(after_the_step: Fluid) -> None:
    assert max(after_the_step.desired()) <= 1.5 * NEED


def test_a_step_up_and_down_is_a_handful_of_changes(after_the_step: Fluid) -> None:
    assert len(after_the_step.changes()) <= 8
    assert after_the_step.reversals() <= 1
    assert after_the_step.desired()[-1] == 2


def test_without_any_knowledge_the_step_is_served_all_the_same() -> None:
    run = fluid(step, cold_start=30.0, history=History()).run(1500)
    assert NEED <= max(run.desired()) <= 1.5 * NEED + 1
    assert run.history.capacity == pytest.approx(100, rel=0.1)
    assert sum(replica.waiting for replica in run.replicas) == 0


@pytest.mark.parametrize("rate", [1.0, 3.0, 5.0, 8.0])
def test_noise_of_thirty_percent_turns_the_number_at_most_four_times_an_hour(rate: float) -> None:
    rng = random.Random(int(rate))
    noise = [rng.uniform(0.7, 1.3) for _ in range(2500)]
    run = fluid(lambda now: rate * noise[int(now / TICK)], min_replicas=1, cold_start=30.0, service=2.0, slots=2)
    run.run(3600)
    assert run.reversals() <= 4
    assert max(run.desired()) <= 1.3 * 1.5 * (rate / 0.7) + 1


def test_a_day_in_an_hour_is_followed_without_trembling() -> None:
    """A sine between 1 and 9 requests/s, twice an hour."""

    run = fluid(lambda now: 5 - 4 * math.cos(2 * math.pi * now / 1800), min_replicas=1, cold_start=20.0, service=2.0)
    run.run(3600)
    assert run.reversals() <= 4
    assert run.longest_wait < 60


def test_half_of_the_pods_falling_silent_changes_nothing() -> None:
    def answers(name: str, now: float) -> bool:
        return not (600 <= now < 1200 and int(name.rsplit("-", 1)[1]) % 2)

    run = fluid(lambda _: 4.0, answers=answers, cold_start=30.0).run(600)
    before = run.desired()[-1]
    run.run(600)
    assert {decision.replicas for at, decision in run.decisions if 600 <= at < 1200} == {before}


def test_all_pods_falling_silent_holds_the_number_and_says_so() -> None:
    run = fluid(lambda _: 4.0, answers=lambda _, now: now < 600, cold_start=30.0).run(600)
    before = run.desired()[-1]
    run.run(600)
    assert {decision.replicas for at, decision in run.decisions if at >= 600} == {before}
    assert run.decisions[-1][1].reason is Reason.METRICS_MISSING


def test_a_full_cluster_stops_the_order_and_goes_down_again() -> None:
    run = fluid(step, gpus=6, cold_start=30.0).run(600)
    assert run.decisions[-1][1].reason is Reason.INSUFFICIENT_GPU
    ordered = run.desired()[-1]
    run.run(600)
    assert run.desired()[-1] <= ordered  # what waits for a GPU is no reason to order more
    run.run(2800)
    assert run.desired()[-1] == 2


def written(run: Fluid) -> dict[str, object]:
    """The status as the API server would hand it back."""
    tick = Tick(run.deployment, "image", run.observed(), run.decisions[-1][1], run.history, run.now)
    return json.loads(json.dumps(status(tick, {})))


def after_a_restart(run: Fluid) -> History:
    return History.restored(written(run), len(run.observed().live), run.now)


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(110.0, id="when it is quiet"),
        pytest.param(340.0, id="while replicas load"),
        pytest.param(700.0, id="at peak"),
        pytest.param(2200.0, id="in the scale-down window"),
    ],
)
def test_a_restart_of_the_operator_changes_nothing_for_three_minutes(at: float) -> None:
    run = fluid(step, cold_start=90.0, restarts=frozenset({at}), remember=after_a_restart).run(at + 180)
    before = next(decision.replicas for time_, decision in reversed(run.decisions) if time_ < at)
    assert {decision.replicas for time_, decision in run.decisions if time_ >= at} == {before}


def test_scale_down_drains_what_it_takes_away() -> None:
    """No request is ever dropped: what was received is finished, running or waiting."""
    run = fluid(step, cold_start=20.0, service=2.0).run(300)
    seen = {}
    for _ in range(1100):
        run.run(TICK)
        for replica in run.replicas:
            seen[replica.name, replica.created_at] = replica
    arrived = sum(replica.received for replica in seen.values())
    accounted = sum(replica.finished + replica.running + replica.waiting for replica in seen.values())
    assert min(run.changes()) < 0
    assert accounted == pytest.approx(arrived)


def test_a_noisy_hour_costs_few_writes() -> None:
    """One deployment of four pods, 1800 ticks: observe, decide, status. bench/decide_speed.py tells the time."""
    rng, received, writes = random.Random(1), 0.0, 0
    told: dict[str, object] = {}
    history, given = replace(KNOWN, desired=4), deployment()
    for index in range(1800):
        now, received = 1000.0 + TICK * index, received + TICK * 0.6 * rng.uniform(0.7, 1.3)
        load = sample(
            at=now, running=rng.randint(20, 30), received=received, finished=received, tokens=100 * received,
            finished_tokens=100 * received, queue_waits=((0.01, 0.9 * received), (math.inf, received)),
        )  # fmt: skip
        pods = Observed(tuple(replace(pod(n), sample=load) for n in range(4)))
        history, signals = measure(pods, history, now)
        decision = decide(look(given.scaling, pods, signals, history, now))
        history = remembered(history, decision, now)
        new = status(Tick(given, "image", pods, decision, history, now), told)
        writes, told = writes + (new != told), new
    assert writes < 1800 / 5
