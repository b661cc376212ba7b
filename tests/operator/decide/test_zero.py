"""From zero and back: who is asked for brings replicas, who is idle loses the last one, and nobody before it served."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from headrace_operator.decide.foresight import next_change
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Reason
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.status import Tick, status
from headrace_operator.decide.values import Observed, PodPhase, PodState, RouterSample, RouterState
from headrace_operator.service import Scaling
from hypothesis import given
from hypothesis import strategies as st
from observations import CAPACITY, NOW, SLOTS, WORK, deployment, pod, sample, scaling

IDLE = 600.0
STEP = 2.0  # seconds between two looks
QUIET = (RouterState("router-0", True, RouterSample(0, 0.0)),)
POLICY = scaling(min_replicas=0, max_replicas=8, scale_down_window=60.0, idle_timeout=IDLE)


def router(held: int = 0, oldest: float = 0.0, **changes: object) -> tuple[RouterState, ...]:
    return (replace(QUIET[0], sample=RouterSample(held, oldest), **changes),)


@dataclass(slots=True)
class Looks:
    """The operator's looks at one deployment, one after the other."""

    policy: Scaling = field(default_factory=lambda: POLICY)
    history: History = field(default_factory=History)
    now: float = NOW

    def look(
        self, pods: Sequence[PodState] = (), routers: tuple[RouterState, ...] = QUIET, after: float = STEP
    ) -> Decision:
        self.now += after
        told = tuple(self._answered(pod) for pod in pods)
        seen = Observed(told, routers=routers)
        self.history, signals = measure(seen, self.history, self.now)
        decision = decide(look(self.policy, seen, signals, self.history, self.now))
        self.history = remembered(self.history, decision, self.now)
        return decision

    def _answered(self, pod: PodState) -> PodState:
        return replace(pod, sample=replace(pod.sample, at=self.now)) if pod.sample else pod


def served() -> Looks:
    """A deployment whose one replica has served, and was just asked something."""
    looks = Looks()
    looks.look()
    looks.look([pod(sample=sample(running=1, received=1.0))])
    return looks


def at_zero(capacity: float | None = None) -> Looks:
    looks = Looks(history=History(desired=0, has_served=True, capacity=capacity, work_per_request=WORK))
    assert looks.look().reason is Reason.AT_ZERO
    return looks


def test_a_new_deployment_starts_one_replica_to_see_that_it_can_serve() -> None:
    decision = Looks().look()
    assert (decision.replicas, decision.reason) == (1, Reason.BELOW_MINIMUM)
    assert "no replica has been ready yet" in decision.message


def test_the_last_replica_goes_when_nobody_has_asked_for_long_enough() -> None:
    looks, idle = served(), [pod(sample=sample(received=1.0))]
    looks.look(idle)
    assert looks.look(idle, after=IDLE - 5.0).replicas == 1
    decision = looks.look(idle, after=5.0)
    assert (decision.current, decision.replicas, decision.reason) == (1, 0, Reason.IDLE_TO_ZERO)
    assert "no request for 602 s, idleTimeout is 600 s" in decision.message
    after = looks.look([], after=STEP)
    assert (after.replicas, after.reason) == (0, Reason.AT_ZERO)


def test_what_time_alone_will_do_is_foretold() -> None:
    looks, idle = served(), [pod(sample=sample(received=1.0))]
    for _ in range(60):
        decision = looks.look(idle)
    found = next_change(decision)
    assert found is not None
    assert (found.decision.replicas, found.decision.reason) == (0, Reason.IDLE_TO_ZERO)
    assert found.after == pytest.approx(IDLE - 60 * STEP + 1.0, abs=STEP)


BUSY = {
    "it runs": ([pod(sample=sample(running=1, received=1.0))], QUIET),
    "it waits": ([pod(sample=sample(waiting=1, received=1.0))], QUIET),
    "one came and went between two looks": ([pod(sample=sample(received=2.0))], QUIET),
    "the replica does not answer": ([pod(sample=None)], QUIET),
    "one of two does not answer": ([pod(sample=sample(received=1.0)), pod(1, sample=None)], QUIET),
    "another one starts": ([pod(sample=sample(received=1.0)), pod(1, PodPhase.LOADING)], QUIET),
    "a router holds it": ([pod(sample=sample(received=1.0))], router(held=1)),
    "a router does not answer": ([pod(sample=sample(received=1.0))], (RouterState("router-0", True),)),
    "no router would hold the next one": ([pod(sample=sample(received=1.0))], ()),
    "no router is ready": ([pod(sample=sample(received=1.0))], router(is_ready=False)),
}


@pytest.mark.parametrize("pods_routers", BUSY.values(), ids=BUSY)
def test_a_request_or_a_doubt_begins_the_retention_anew(
    pods_routers: tuple[list[PodState], tuple[RouterState, ...]],
) -> None:
    looks, idle = served(), [pod(sample=sample(received=2.0))]
    looks.look([pod(sample=sample(received=1.0))])
    looks.look(*pods_routers, after=IDLE - 5.0)
    assert all(looks.look(idle, after=STEP).replicas >= 1 for _ in range(200)), "400 s after it"
    assert any(looks.look(idle, after=STEP).replicas == 0 for _ in range(120)), "640 s after it"


def test_a_minimum_of_one_is_never_idle() -> None:
    looks = Looks(policy=replace(POLICY, min_replicas=1))
    looks.look()
    for _ in range(20):
        assert looks.look([pod()], after=IDLE).replicas == 1


FROM_ZERO = [
    pytest.param(None, 1, 0.0, 1, id="the first request, of a model whose capacity nobody knows"),
    pytest.param(None, 500, 5.0, 1, id="many, and nobody knows what a replica carries"),
    pytest.param(CAPACITY, 1, 0.0, 1, id="the first request"),
    pytest.param(CAPACITY, 28, 2.0, 2, id="14 requests/s of 10 tokens, at 70 tok/s of a replica"),
    pytest.param(CAPACITY, 900, 300.0, 3, id="a backlog of 9000 tokens, within the 30 s of a start"),
    pytest.param(CAPACITY, 10_000, 1.0, 8, id="never more than maxReplicas"),
]


@pytest.mark.parametrize(("capacity", "held", "oldest", "replicas"), FROM_ZERO)
def test_held_requests_bring_replicas(capacity: float | None, held: int, oldest: float, replicas: int) -> None:
    decision = at_zero(capacity).look(routers=router(held, oldest))
    assert (decision.current, decision.replicas) == (0, replicas)
    assert decision.reason in {Reason.SCALE_FROM_ZERO, Reason.AT_MAXIMUM}
    assert f"routers hold {held} requests" in decision.message


def test_who_gives_up_waiting_does_not_take_back_the_replica_that_starts() -> None:
    looks = at_zero()
    assert looks.look(routers=router(1)).replicas == 1
    for _ in range(10):
        assert looks.look([pod(phase=PodPhase.LOADING)], after=IDLE).replicas == 1


def test_a_router_that_does_not_answer_orders_nothing() -> None:
    assert at_zero().look(routers=(RouterState("router-0", True),)).replicas == 0


def test_held_requests_count_with_those_that_wait_at_replicas() -> None:
    """A router gives a replica twice its batch, and holds the rest."""
    looks = Looks(history=History(desired=1, has_served=True, capacity=CAPACITY, work_per_request=WORK))
    full = pod(sample=sample(running=SLOTS, waiting=SLOTS))
    without = looks.look([full])
    assert looks.look([full], router(held=SLOTS)).signals.backlog == without.signals.backlog + SLOTS * WORK


def test_several_replicas_leave_by_the_window_and_only_the_last_one_by_idleness() -> None:
    policy = replace(POLICY, scale_down_window=1200.0)
    looks = Looks(policy, History(desired=3, recommendations=((NOW, 3),), has_served=True))
    three = [pod(number) for number in range(3)]
    looks.look(three)
    decision = looks.look(three, after=IDLE + 1.0)
    assert (decision.replicas, decision.reason) == (3, Reason.HOLDING_FOR_WINDOW)
    assert looks.look(three, after=IDLE).replicas == 0


def test_status_tells_that_zero_is_meant() -> None:
    looks = at_zero()
    decision = looks.look()
    told = status(Tick(deployment(scaling=POLICY), "image", Observed(routers=QUIET), decision, looks.history, NOW), {})
    conditions = {one["type"]: (one["status"], one["reason"]) for one in told["conditions"]}
    assert conditions["Ready"] == ("True", "ScaledToZero")
    assert conditions["ScalingActive"][0] == "True"
    assert told["hasBeenReady"] is True
    assert History.restored(told, 0, NOW).has_served, "another operator leaves it at zero"


def test_while_the_first_replica_comes_from_zero_the_deployment_is_not_ready() -> None:
    looks = at_zero()
    looks.look(routers=router(1))
    starting = [pod(phase=PodPhase.LOADING)]
    decision = looks.look(starting, router(1, 2.0))
    told = status(
        Tick(deployment(scaling=POLICY), "image", Observed(tuple(starting)), decision, looks.history, NOW), {}
    )
    conditions = {one["type"]: (one["status"], one["reason"]) for one in told["conditions"]}
    assert conditions["Ready"] == ("False", "Loading")


never_ready = st.lists(
    st.builds(
        pod,
        st.integers(0, 3),
        st.sampled_from([phase for phase in PodPhase if phase is not PodPhase.READY]),
        restarts=st.integers(0, 3),
    ),
    max_size=3,
    unique_by=lambda state: state.uid,
)
any_routers = st.lists(
    st.builds(
        RouterState,
        st.just("router"),
        st.booleans(),
        st.none() | st.builds(RouterSample, st.integers(0, 50), st.floats(0, 600)),
    ),
    max_size=2,
).map(tuple)


@given(st.lists(st.tuples(never_ready, any_routers, st.floats(0.1, 10_000)), min_size=1, max_size=12))
def test_what_was_never_ready_is_never_scaled_to_zero(
    looks: list[tuple[list[PodState], tuple[RouterState, ...], float]],
) -> None:
    """Whatever its pods do, whatever the routers say, and however long it takes: a model may load for an hour."""
    told = Looks()
    assert all(told.look(pods, routers, after).replicas >= 1 for pods, routers, after in looks)


@given(st.lists(st.tuples(never_ready, any_routers, st.floats(0.1, 10_000)), min_size=1, max_size=12))
def test_no_start_from_zero_is_given_up_before_it_has_served(
    looks: list[tuple[list[PodState], tuple[RouterState, ...], float]],
) -> None:
    told = at_zero()
    assert told.look(routers=router(1)).replicas == 1
    assert all(told.look(pods, routers, after).replicas >= 1 for pods, routers, after in looks)
