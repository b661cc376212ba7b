"""The simulator's routers against the router's own picker: the same are held, refused and sent on, to the same ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from headrace_operator.routing_fields import Hold
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.policy import Look
from headrace_operator.simulate.routers import Routers, allowed
from headrace_operator.simulate.traces import Request
from headrace_operator.simulate.world import Setting, World
from headrace_router.pick.busy import Busy
from headrace_router.pick.choose import choose
from headrace_router.pick.holding import Limits
from headrace_router.pick.picker import Picker, Terms
from headrace_router.values import Asked, Door, Endpoint, Found, Load, Pick, Ports
from hypothesis import example, given
from hypothesis import strategies as st

LOOK, HAIR = 2.0, 1e-6  # seconds
PROMPTS = 200  # that begin differently: each of a few replicas is the first of some of them
TERMS = 60.0  # seconds


def endpoint(number: int) -> Endpoint:
    return Endpoint(f"uid-{number}", f"chat-{number}", "10.0.0.1", Ports(50051, 8000, 9090))


def asked(affinity: bytes | None = None) -> Asked:
    return Asked(Door.HTTP, affinity, "somebody")


crowds = st.integers(1, 32).flatmap(
    lambda slots: st.tuples(st.lists(st.integers(0, slots + 2), min_size=1, max_size=4), st.just(slots))
)


@given(crowds)
@example(([10, 0], 16))  # places are free, and it has more than its share
@example(([1, 0, 0, 0], 16))  # likewise, and by no more than one
def test_both_pick_among_the_same_replicas(crowd: tuple[list[int], int]) -> None:
    insides, slots = crowd
    busy, endpoints = Busy(), [endpoint(number) for number in range(len(insides))]
    for number, inside in enumerate(insides):
        busy.heard(f"uid-{number}", Load(inside, slots, 0.0))
    picked = {choose(asked(b"%d" % prompt), endpoints, busy, 0.0).endpoints[0] for prompt in range(PROMPTS)}
    assert picked == {endpoints[place] for place in allowed(insides, slots)}


@dataclass(slots=True)
class OneAt:
    """A policy: no replica before that moment, one after it."""

    moment: float  # seconds
    interval: float = LOOK

    def replicas(self, look: Look) -> int:
        return int(look.now >= self.moment)


@dataclass(frozen=True, slots=True)
class Told:
    went_on: dict[float, float]  # by the time of arrival: seconds that it was held; 0 = it was not
    refused: set[float]


def simulated(arrivals: list[float], hold: Hold, slots: int, ready_at: float) -> Told:
    """On a replica that finishes nothing."""
    engine = Engine(overhead=1e9, slots=slots, phase_spread=0.0)
    setting = Setting(engine, cold_start=10.0, start=0, routing="router", routers=Routers(1, hold))
    world = World(setting, [Request(at, 10, 10) for at in arrivals], OneAt(ready_at - 10.0)).run()
    refused, held = set(world.refused), dict(world.holds)
    return Told({at: held.get(at, 0.0) for at in arrivals if at not in refused}, refused)


def picked(arrivals: list[float], hold: Hold, slots: int, ready_at: float) -> Told:
    """By the router's own picker, told of the same moments."""
    picker = Picker(Terms(Limits(hold.requests, hold.timeout), TERMS))
    went_on, refused = dict[float, float](), set[float]()

    def settle(now: float) -> None:
        for request, answer in picker.released(now):
            if isinstance(answer, Pick):
                went_on[float(request)] = now - float(request)
            else:
                refused.add(float(request))

    for moment in _moments(arrivals, hold, ready_at):
        if moment == ready_at:
            picker.there_are(Found((endpoint(0),)))
            picker.heard("uid-0", Load(0, slots, moment))
        settle(moment)
        if moment in arrivals:
            answer = picker.ask(str(moment), asked(), moment)
            if isinstance(answer, Pick):
                went_on[moment] = 0.0
            elif answer is not None:
                refused.add(moment)
    return Told(went_on, refused)


def _moments(arrivals: list[float], hold: Hold, ready_at: float) -> Iterator[float]:
    """At which something happens."""
    yield from sorted([*arrivals, *(at + hold.timeout + HAIR for at in arrivals), ready_at])


# Arrivals lie between the looks, so that no two things happen at one moment.
arrivals_between = st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True).map(
    lambda seconds: [second + 0.5 for second in sorted(seconds)]
)


@given(
    arrivals_between,
    st.builds(Hold, st.integers(0, 20), st.sampled_from([0.25, 7.25, 30.25, 300.25])),
    st.integers(1, 8),
    st.integers(5, 30),
)
def test_both_hold_refuse_and_send_on_the_same(arrivals: list[float], hold: Hold, slots: int, look: int) -> None:
    ready_at = LOOK * look
    ours, theirs = simulated(arrivals, hold, slots, ready_at), picked(arrivals, hold, slots, ready_at)
    assert ours.refused == theirs.refused
    assert ours.went_on == {at: pytest.approx(seconds, abs=1e-3) for at, seconds in theirs.went_on.items()}
    assert all(math.isfinite(seconds) for seconds in ours.went_on.values())
