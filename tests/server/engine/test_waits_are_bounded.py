"""Whoever comes, in whatever pattern: who is let in begins before its class's longest wait is over."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from example_counts import examples
from headrace_server.engine.queue import longest_wait
from headrace_server.errors import Overloaded
from headrace_server.request import Priority, Request
from hypothesis import example, given
from hypothesis import strategies as st
from machines import Machine
from simulation import Simulated, request_at, simulated

MAX_WAIT = 2.0  # seconds, of the most urgent class
SECONDS = 14.0
MEASURED = 5.0  # seconds after which the door knows how fast the queue empties
LONGEST_ANSWER = 0.6  # seconds: a place is free when an answer ends
# A slow one, so that few steps and few requests are simulated for many seconds.
SMALL = Machine(weights=0.032, sequence=0.0004, token=0.0001, read=0.0, gather=0.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that an adversary repeats for ever."""

    pause: float  # seconds to the next
    priority: Priority
    tenants: int | None  # how many take turns; None: a new one with each request
    prompt: int
    new: int

    def stream(self) -> Iterator[Request]:
        time, number = 0.0, 0
        while (time := time + self.pause) < SECONDS:
            number += 1
            tenant = str(number if self.tenants is None else number % self.tenants)
            yield request_at(time, self.prompt, self.new, priority=self.priority, tenant=f"{self.prompt} {tenant}")


kinds = st.builds(
    Kind,
    pause=st.floats(0.012, 0.3),
    priority=st.sampled_from([Priority.INTERACTIVE, Priority.STANDARD]),
    tenants=st.none() | st.integers(1, 4),
    prompt=st.integers(1, 200),
    new=st.integers(1, 15),
)


def attacked(adversary: list[Kind], **config: Any) -> Simulated:
    run = simulated(SMALL, max_running=8, max_wait=MAX_WAIT, **config)
    everything = [request for kind in adversary for request in kind.stream()]
    run.run(sorted(everything, key=lambda request: request.arrived_at), SECONDS)
    return run


# Those who are cheap by the token begin first, and the rate measured with them is not that of the others.
@example([Kind(0.015625, Priority.INTERACTIVE, None, 1, 6), Kind(0.015625, Priority.INTERACTIVE, 1, 47, 1)])
@example([Kind(0.015625, Priority.INTERACTIVE, None, 1, 7), Kind(0.015625, Priority.INTERACTIVE, 1, 106, 2)])
@examples(25)
@given(st.lists(kinds, min_size=1, max_size=4))
def test_no_online_request_that_is_let_in_waits_longer_than_its_class_bears(adversary: list[Kind]) -> None:
    run = attacked(adversary)
    for life in run.lives.values():
        request = life.request
        begun = life.sequence.queue_wait
        waited = run.now - request.arrived_at if begun is None else begun
        if request.arrived_at > MEASURED:
            assert waited <= longest_wait(request.priority, MAX_WAIT) + LONGEST_ANSWER
    for _, refusal in run.refused:
        assert isinstance(refusal, Overloaded)
        assert 0.1 <= refusal.retry_after <= 60.0, "who is told to come again is told when"


def test_a_tenant_that_comes_seldom_is_let_in_and_served_beside_one_that_floods() -> None:
    flood = Kind(0.012, Priority.INTERACTIVE, 1, 50, 5)
    seldom = Kind(0.29, Priority.STANDARD, 1, 200, 15)
    run = attacked([flood, seldom])
    refused = [request for request, _ in run.refused if request.arrived_at > MEASURED]
    assert {request.priority for request in refused} == {Priority.INTERACTIVE}
    late = [life for life in run.lives.values() if life.request.priority is Priority.STANDARD and life.ended is None]
    assert len(late) <= longest_wait(Priority.STANDARD, MAX_WAIT) / seldom.pause


def test_an_engine_that_was_not_measured_refuses_nobody_because_of_a_guess() -> None:
    run = simulated(SMALL, max_wait=0.001)
    for _ in range(100):
        run.arrive(request_at(0.0))
    assert not run.refused
