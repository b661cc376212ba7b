"""A server without a model: real scheduler and door, a machine whose steps take times by a formula, simulated time.

The loop is the overlapped one: a step is planned when the one before begins to compute, so who comes meanwhile is in
the step after the next.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace_server.config import EngineConfig
from headrace_server.engine.admission import Admission, Backlog
from headrace_server.engine.queue import kind
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence, Step
from headrace_server.errors import DeadlineExceeded, Overloaded
from headrace_server.request import Finish, Priority, Request
from machines import Machine

ONLINE_GPU = Machine(weights=0.008, sequence=0.00005, token=0.00002, read=0.0, gather=0.0)


def request_at(
    time: float,
    prompt: int = 32,
    new: int = 8,
    *,
    priority: Priority = Priority.STANDARD,
    tenant: str = "",
    deadline: float | None = None,
) -> Request:
    return Request(
        id="simulated",
        prompt=(7,) * prompt,
        max_new_tokens=new,
        arrived_at=time,
        priority=priority,
        tenant=tenant,
        deadline=deadline,
    )


@dataclass(eq=False)
class Life:
    request: Request
    sequence: Sequence
    first_token: float | None = None  # when
    ended: float | None = None

    @property
    def ttft(self) -> float:
        assert self.first_token is not None
        return self.first_token - self.request.arrived_at


@dataclass
class Computed:
    ended: float  # when
    tokens: int
    offline: int


class Times(Protocol):
    def seconds_of(self, step: Step) -> float: ...


@dataclass
class Simulated:
    machine: Times
    scheduler: Scheduler
    admission: Admission
    now: float = 0.0
    lives: dict[Sequence, Life] = field(default_factory=dict)
    refused: list[tuple[Request, Overloaded | DeadlineExceeded]] = field(default_factory=list)
    steps: list[Computed] = field(default_factory=list)
    in_flight: deque[tuple[Step, int]] = field(default_factory=deque)  # with its offline tokens

    def run(self, arrivals: Iterable[Request], until: float) -> None:
        """Requests by their time of arrival."""
        coming: Iterator[Request] = iter(arrivals)
        following = next(coming, None)
        while self.now < until:
            while following is not None and following.arrived_at <= self.now:
                self.arrive(following)
                following = next(coming, None)
            self.turn_or_wait(until if following is None else min(until, following.arrived_at))

    def turn_or_wait(self, until: float) -> None:
        """What there is to do; when there is nothing, time passes until then."""
        if not self.turn():
            held = self.scheduler.held_until
            self.now = max(self.now + 1e-9, until if held is None else min(until, held))

    def arrive(self, request: Request) -> None:
        try:
            self.admission.check(request, self.backlog(), self.now)
        except (Overloaded, DeadlineExceeded) as refusal:
            self.refused.append((request, refusal))
            return
        self.admission.admitted(request, self.now)
        sequence = self.scheduler.add(request)
        self.lives[sequence] = Life(request, sequence)

    def backlog(self) -> Backlog:
        queue = self.scheduler.queue
        return Backlog(
            {each: queue.requests(each) for each in Priority},
            {each: queue.tokens(each) for each in Priority},
            {each: queue.tokens_per_second(kind(each)) for each in Priority},
            queue.oldest(self.now),
            {each: queue.answers(each) for each in Priority},
            {each: queue.answers_per_second(kind(each)) for each in Priority},
        )

    def turn(self) -> bool:
        """One step planned, one computed. False when there is nothing to do."""
        for sequence in self.scheduler.expire(self.now):
            self._end(sequence)
        before = self.scheduler.tokens[Priority.BATCH]
        step = self.scheduler.next_step(self.now)
        if step is not None:
            self.in_flight.append((step, self.scheduler.tokens[Priority.BATCH] - before))
        if not self.in_flight:
            return False
        if step is None or len(self.in_flight) > 1:
            self._compute(*self.in_flight.popleft())
        return True

    def waits(self, priority: Priority) -> list[float]:
        """Of those who began."""
        return [
            life.sequence.queue_wait
            for life in self.lives.values()
            if life.request.priority is priority and life.sequence.queue_wait is not None
        ]

    def _compute(self, step: Step, offline: int) -> None:
        seconds = self.machine.seconds_of(step)
        self.now += seconds
        committed = self.scheduler.commit(step, [9] * step.samples)
        self.scheduler.observe(step, seconds)
        self.steps.append(Computed(self.now, step.tokens, offline))
        for sequence, _ in committed.tokens:
            life = self.lives[sequence]
            life.first_token = self.now if life.first_token is None else life.first_token
        for sequence in committed.ended:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self.lives[sequence].ended = self.now
        self.admission.ended(sequence.request, sequence.tokens_computed)

    def cancel(self, sequence: Sequence) -> None:
        if self.scheduler.end(sequence, Finish.CANCELLED):
            self._end(sequence)


def simulated(machine: Machine = ONLINE_GPU, pages: int = 4096, **config: Any) -> Simulated:
    """`config` overrides EngineConfig's fields."""
    settings = EngineConfig(**{"max_running": 16, "prefix_cache": False, **config})
    return Simulated(machine, Scheduler(settings, pages), Admission(settings))
