import math
from dataclasses import replace

import pytest
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision, decide
from headrace_operator.decide.signals import Signals
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import PodPhase, PodState
from headrace_operator.service import Mode, Scaling
from hypothesis import given
from hypothesis import strategies as st
from observations import CAPACITY, NOW, decided, observed, pod, scaling, signals

BROKEN = {"queue_wait_p95": 5.0, "typical_wait": 5.0, "queue_drains_in": math.inf}


@pytest.mark.parametrize(
    ("ready", "seen", "policy", "replicas", "reason"),
    [
        pytest.param(4, signals(4, load=1.0), {}, 4, Reason.STEADY, id="exactly on target"),
        pytest.param(4, signals(4, load=1.01), {}, 5, Reason.LOAD_ROSE, id="a little above target"),
        pytest.param(4, signals(4, load=8.0), {}, 41, Reason.LOAD_ROSE, id="eight times: 32, and 9 for its backlog"),
        pytest.param(4, signals(4, load=0.0), {}, 1, Reason.LOAD_FELL, id="nothing arrives"),
        pytest.param(4, signals(4, load=0.0), {"min_replicas": 3}, 3, Reason.LOAD_FELL, id="down to the minimum"),
        pytest.param(4, signals(4, load=0.0), {"min_replicas": 4}, 4, Reason.STEADY, id="quiet at the minimum"),
        pytest.param(2, signals(2, load=0.5), {"min_replicas": 3}, 3, Reason.BELOW_MINIMUM, id="below the minimum"),
        pytest.param(4, signals(4, load=9.0), {"max_replicas": 8}, 8, Reason.LOAD_ROSE, id="up to the maximum"),
        pytest.param(8, signals(8, load=2.0), {"max_replicas": 8}, 8, Reason.AT_MAXIMUM, id="more than the maximum"),
        pytest.param(9, signals(9, load=1.0), {"max_replicas": 8}, 8, Reason.ABOVE_MAXIMUM, id="the maximum fell"),
        pytest.param(4, signals(4, load=0.73), {}, 4, Reason.HOLDING_TARGET, id="three would run at 97 % of target"),
        pytest.param(
            4, signals(4, load=0.2, running=200), {}, 4, Reason.HOLDING_TARGET, id="what runs would not fit into fewer"
        ),
        pytest.param(4, signals(4, load=0.2, kv_held=2.8), {}, 4, Reason.HOLDING_TARGET, id="KV pages of four"),
        pytest.param(4, signals(4, load=0.2, kv_held=1.7), {}, 2, Reason.LOAD_FELL, id="KV pages of two"),
        pytest.param(
            4, signals(4, load=0.1, kv_held=1.0, answered=3), {}, 3, Reason.LOAD_FELL,
            id="beside a full cache, and a silent pod's that counts as full",
        ),
        pytest.param(
            4, signals(4, load=0.2, queue_wait_p95=0.6), {}, 4, Reason.HOLDING_TARGET, id="the promise is broken"
        ),
        pytest.param(
            4, signals(4, load=0.5, **BROKEN, waiting=5), {}, 8, Reason.QUEUE_WAIT_HIGH, id="waits although work fits"
        ),
        pytest.param(
            4, signals(4, load=0.5, **BROKEN, waiting=4), {}, 5, Reason.QUEUE_WAIT_HIGH, id="waited, and few still do"
        ),
        pytest.param(
            4, signals(4, load=0.5, **{**BROKEN, "typical_wait": 0.6}), {}, 5, Reason.QUEUE_WAIT_HIGH, id="waits a bit"
        ),
        pytest.param(
            4, signals(4, load=0.9, **{**BROKEN, "typical_wait": 0.1}), {}, 4, Reason.STEADY,
            id="an old backlog on one pod",
        ),
        pytest.param(
            4, signals(4, load=0.9, **{**BROKEN, "queue_drains_in": 8.0}), {}, 4, Reason.STEADY,
            id="the queue is gone before a new pod could help",
        ),
        pytest.param(
            4, signals(4, load=0.9, **BROKEN, ready_unchanged=2.0), {}, 4, Reason.STEADY,
            id="the new pods had no time to show what they do",
        ),
        pytest.param(
            4, signals(4, load=0.9, **BROKEN), {"mode": Mode.PAUSED}, 4, Reason.PAUSED, id="paused under load"
        ),
        pytest.param(
            2, signals(2, load=9.0), {"mode": Mode.PAUSED, "min_replicas": 3}, 3, Reason.BELOW_MINIMUM,
            id="paused, and below the minimum",
        ),
        pytest.param(
            4, signals(4, answered=0, arrivals=None, max_running=0), {}, 4, Reason.METRICS_MISSING, id="nobody answers"
        ),
        pytest.param(
            4, signals(4, load=0.1, answered=3), {}, 2, Reason.LOAD_FELL, id="one of four is silent: it counts as full"
        ),
        pytest.param(
            4, signals(4, load=0.1, answered=3, max_running=0), {}, 4, Reason.HOLDING_TARGET,
            id="one of four is silent, and nobody says what a replica holds",
        ),
        pytest.param(
            4, signals(4, load=0.5, answered=2), {}, 4, Reason.METRICS_MISSING, id="two silent ones and the load of two"
        ),
        pytest.param(
            4, signals(4, load=2.0, answered=3), {}, 8, Reason.LOAD_ROSE, id="three of four alone need more than four"
        ),
        pytest.param(
            4, signals(4, load=9.0, capacity=None, running=200), {}, 4, Reason.STEADY, id="capacity unknown, no wait"
        ),
        pytest.param(
            2, signals(2, load=9.0, capacity=None, running=128, waiting=300), {}, 2, Reason.STEADY,
            id="capacity unknown, a queue but not yet a broken promise",
        ),
        pytest.param(
            4, signals(4, load=9.0, capacity=None, running=256, **BROKEN), {}, 8, Reason.QUEUE_WAIT_HIGH,
            id="capacity unknown, and everybody waits",
        ),
        pytest.param(
            4, signals(4, load=0.1, capacity=None, running=10), {}, 1, Reason.LOAD_FELL,
            id="capacity unknown, but ten requests fit into one replica",
        ),
        pytest.param(4, signals(4, arrivals=None), {}, 4, Reason.STEADY, id="just restarted: no rate yet"),
    ],
)  # fmt: skip
def test_replicas(ready: int, seen: Signals, policy: dict[str, object], replicas: int, reason: Reason) -> None:
    decision = decided(ready, seen, policy=scaling(**policy))
    assert (decision.replicas, decision.reason) == (replicas, reason)


CLOSE = {"queue_wait_p95": 0.9, "typical_wait": 0.9, "queue_drains_in": math.inf}


def test_waits_that_may_be_chance_order_a_little_and_see_what_it_does() -> None:
    """A tenth of the capacity is free, and most pods break the target, though nobody waits twice as long."""
    seen = signals(20, load=0.9, **CLOSE)
    assert decided(20, seen).replicas == 22  # a quarter more than the 18 of the work; 0.9 s / 0.5 s would be 36
    assert decided(20, seen, pod(20, PodPhase.STARTING, sample=None)).replicas == 21


@given(st.integers(1, 50), st.floats(0.1, 0.99), st.floats(0.01, 0.49))
def test_waits_that_may_be_chance_order_at_most_half_more_than_needed(ready: int, load: float, above: float) -> None:
    wait = 0.5 + above
    seen = signals(ready, load=load, queue_wait_p95=wait, typical_wait=wait, queue_drains_in=math.inf)
    assert ready < decided(ready, seen).replicas <= max(ready + 1, 1.25 * load * ready)


def test_what_is_held_for_the_target_was_not_asked_for() -> None:
    """A burst is over, its queue is not: nothing goes now, and the window begins with what the load asks for."""
    decision = decided(12, signals(12, load=0.2, queue_wait_p95=5.0))
    assert (decision.replicas, decision.reason) == (12, Reason.HOLDING_TARGET)
    assert decision.asked == 3


def test_a_silent_pod_is_asked_for() -> None:
    decision = decided(4, replace(signals(4, load=0.1), answered=1))
    assert decision.asked == decision.replicas == 4


def test_bursts_need_half_of_the_reserve() -> None:
    """400 tokens/s, 100 tokens/s a replica: 4 at 100 %, 5.7 at 70 %, 4.7 with half of the reserve."""
    assert decided(2, signals(2, load=0.5, burst=400.0)).replicas == 5


def bursting(load: float, *, lately: int) -> Decision:
    """Five are there for bursts of 400 tokens/s. `load`: replicas at 70 %; `lately`: asked for in each last look."""
    seen = signals(5, load=load / 5, burst=400.0, waiting=40, typical_wait=1.5, queue_wait_p95=1.5)
    pods, history = observed(5), History(desired=5, asked_lately=((NOW - 2, lately),))
    return decide(look(scaling(), pods, seen, history, NOW))


def test_a_known_burst_orders_nothing_until_it_lasts() -> None:
    """448 tokens/s would be 6.4 replicas, and requests wait for longer than they may."""
    assert bursting(6.4, lately=1).replicas == 5
    assert bursting(6.4, lately=5).replicas > 5


def test_a_higher_burst_than_was_known_is_ordered_for_at_once() -> None:
    assert bursting(9.0, lately=1).replicas >= 9


def test_the_window_holds_what_is_kept_for_bursts_and_not_what_one_of_them_asked_for() -> None:
    high, calm = bursting(9.0, lately=1), bursting(0.5, lately=1)
    assert high.asked >= 9
    assert calm.asked < 5
    assert high.recommended == calm.recommended == 5


def test_a_message_carries_the_numbers_that_made_it() -> None:
    decision = decided(4, signals(4, load=1.5, waiting=20))
    assert decision.message == (
        "4 -> 6 replicas: 420 tok/s arrive and 200 tokens wait, a replica carries 100 tok/s at 70%"
    )


def test_replicas_for_a_backlog_are_told_apart() -> None:
    decision = decided(4, signals(4, load=1.0, waiting=1000))
    assert decision.replicas == 5
    assert decision.message.endswith("a replica carries 100 tok/s at 70%, 1 more until the backlog is gone")


@pytest.mark.parametrize(
    ("recommended", "replicas", "reason"),
    [
        pytest.param((9, 3, 2), 8, Reason.HOLDING_FOR_WINDOW, id="more were needed a moment ago"),
        pytest.param((3, 5, 2), 5, Reason.LOAD_FELL, id="down to the most that was needed, not to the last"),
        pytest.param((), 1, Reason.LOAD_FELL, id="needed by nobody for the whole window"),
    ],
)
def test_the_scale_down_window(recommended: tuple[int, ...], replicas: int, reason: Reason) -> None:
    decision = decided(8, signals(8, load=0.0), before=recommended)
    assert (decision.replicas, decision.reason) == (replicas, reason)


def test_what_was_needed_before_the_window_is_forgotten() -> None:
    history = History(desired=8, recommendations=((NOW - 301, 8), (NOW - 299, 2)))
    decision = decide(look(scaling(), observed(8), signals(8, load=0.0), history, NOW))
    assert decision.replicas == 2


def test_a_lost_pod_is_still_wanted() -> None:
    history = History(desired=4, recommendations=((NOW - 2, 4),))
    for seen in (signals(3, load=0.1), signals(3, answered=0, arrivals=None)):
        decision = decide(look(scaling(), observed(3), seen, history, NOW))
        assert decision.replicas == 4


def unschedulable(ordinal: int) -> PodState:
    return pod(ordinal, PodPhase.UNSCHEDULABLE, message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


def test_pods_without_a_gpu_stop_further_orders_in_the_schedulers_words() -> None:
    decision = decided(2, signals(2, load=4.0), unschedulable(2))
    assert (decision.replicas, decision.reason) == (3, Reason.INSUFFICIENT_GPU)
    assert "Insufficient nvidia.com/gpu" in decision.message
    assert "tok/s arrive" in decision.message


def test_pods_without_a_gpu_are_no_supply() -> None:
    """What is wanted is told as if they were not there; how many are ordered is the scheduler's rule."""
    seen = signals(1, arrivals=40.0)
    loading = tuple(pod(n, PodPhase.STARTING, created_at=NOW - 29, sample=None) for n in range(1, 6))
    assert decided(1, seen, *loading).proposals[0].replicas == 6
    assert decided(1, seen, *(unschedulable(n) for n in range(1, 6))).proposals[0].replicas == 7


def test_pods_without_a_gpu_never_block_going_down() -> None:
    assert decided(4, signals(4, load=0.0), unschedulable(4)).replicas == 1


def test_the_minimum_is_ordered_even_when_the_cluster_is_full() -> None:
    decision = decided(1, signals(1, load=0.5), unschedulable(1), policy=scaling(min_replicas=4))
    assert decision.replicas == 4


def test_a_model_that_is_refused_everywhere_is_never_multiplied() -> None:
    refused = pod(0, PodPhase.MODEL_REFUSED, message="/models/x: no config.json", sample=None)
    decision = decided(0, signals(0), refused)
    assert (decision.replicas, decision.reason) == (1, Reason.MODEL_REFUSED)
    assert "no config.json" in decision.message


def test_loading_replicas_are_not_ordered_again() -> None:
    """Seven load since 20 s, a start takes 60: the backlog that grows meanwhile is theirs."""
    loading = tuple(pod(n, PodPhase.STARTING, created_at=NOW - 20, ready_at=None, sample=None) for n in range(1, 8))
    seen = signals(1, arrivals=40.0, waiting=700, running=64)
    history = History(desired=8, startups=(60.0,) * 5)
    decision = decide(look(scaling(), observed(1, *loading), seen, history, NOW))
    assert decision.replicas == 8


# Laws. Each holds for whatever is drawn.
policies = st.builds(
    lambda least, more, utilization: scaling(
        min_replicas=least, max_replicas=least + more, utilization=utilization / 100
    ),
    least=st.integers(1, 10),
    more=st.integers(0, 60),
    utilization=st.integers(10, 100),
)


def any_signals(ready: int) -> st.SearchStrategy[Signals]:
    return st.builds(
        lambda load, **changes: signals(ready, load=load, **changes),
        load=st.none() | st.floats(0, 20),
        answered=st.integers(0, ready),
        capacity=st.none() | st.just(CAPACITY),
        waiting=st.integers(0, 5000),
        running=st.integers(0, 64 * max(1, ready)),
        max_running=st.sampled_from([0, 64]),
        queue_wait_p95=st.none() | st.floats(0, 200),
        typical_wait=st.none() | st.floats(0, 200),
        queue_drains_in=st.just(math.inf) | st.floats(0, 300),
        ready_unchanged=st.floats(0, 500),
    )


moments = st.integers(0, 12).flatmap(lambda ready: st.tuples(st.just(ready), any_signals(ready)))
others = st.lists(st.sampled_from([PodPhase.STARTING, PodPhase.UNSCHEDULABLE, PodPhase.CRASH_LOOPING]), max_size=4)


@given(moments, policies, others)
def test_the_bounds_always_hold(moment: tuple[int, Signals], policy: Scaling, phases: list[PodPhase]) -> None:
    ready, seen = moment
    rest = tuple(pod(ready + n, phase, message="m", sample=None) for n, phase in enumerate(phases))
    decision = decided(ready, seen, *rest, policy=policy)
    assert policy.min_replicas <= decision.replicas <= policy.max_replicas
    assert decision.message.startswith(f"{decision.current} ")


@given(moments, others)
def test_without_any_metrics_never_fewer(moment: tuple[int, Signals], phases: list[PodPhase]) -> None:
    ready, seen = moment
    rest = tuple(pod(ready + n, phase, message="m", sample=None) for n, phase in enumerate(phases))
    decision = decided(ready, replace(seen, answered=0), *rest)
    assert decision.replicas >= decision.current


@given(st.integers(2, 12), st.floats(0, 1), st.data())
def test_a_silent_pod_is_kept_like_a_full_one(ready: int, load: float, data: st.DataObject) -> None:
    """Its GPU, and the ones that the others need, stay."""
    silent = data.draw(st.integers(1, ready - 1))
    decision = decided(ready, replace(signals(ready, load=load), answered=ready - silent))
    assert decision.replicas >= min(ready, load * ready + silent - 1e-6)


@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 12))
def test_silence_of_some_never_turns_a_decision_to_fewer_into_more(ready: int, load: float, silent: int) -> None:
    """Load that fits the pods that answered fits all of them."""
    seen = signals(ready, load=load)
    decision = decided(ready, replace(seen, answered=max(0, ready - silent)))
    assert decision.replicas <= ready


@given(moments, st.lists(st.integers(1, 20), max_size=10))
def test_never_below_the_window(moment: tuple[int, Signals], recommended: list[int]) -> None:
    ready, seen = moment
    decision = decided(ready, seen, before=tuple(recommended))
    assert decision.replicas >= min(decision.current, max(recommended, default=0))


@given(st.integers(1, 50), st.floats(1.001, 2))
def test_every_pod_at_k_times_its_target_needs_k_times_the_pods(ready: int, k: float) -> None:
    assert decided(ready, signals(ready, load=k)).replicas >= math.ceil(k * ready - 1e-6)


@given(st.integers(1, 30), st.floats(0, 3), st.floats(0, 3))
def test_more_work_never_needs_fewer(ready: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert decided(ready, signals(ready, load=less)).replicas <= decided(ready, signals(ready, load=more)).replicas


@given(st.integers(2, 20), st.floats(0, 0.99))
def test_one_quiet_tick_changes_nothing(ready: int, load: float) -> None:
    """The tick before needed them all."""
    assert decided(ready, signals(ready, load=load), before=(ready,)).replicas == ready


@given(st.integers(1, 20), st.floats(0.01, 300))
def test_the_promise_at_most_doubles_and_at_least_adds(ready: int, above: float) -> None:
    wait = 0.5 + above
    seen = signals(ready, load=0.5, queue_wait_p95=wait, typical_wait=wait, queue_drains_in=math.inf)
    assert ready < decided(ready, seen).replicas <= 2 * ready
