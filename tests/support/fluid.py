"""A fluid model of replicas behind a queue, driven by the real decision and the real plan: requests are amounts, not
objects, so that an hour takes about a second. Pods start after a cold start, drain when unrouted, and are unschedulable
when the GPUs run out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from headrace_operator.decide.actions import CreatePod, DeletePod, Unroute
from headrace_operator.decide.history import History
from headrace_operator.decide.plan import plan
from headrace_operator.decide.replicas import Decision, decide, remembered
from headrace_operator.decide.signals import measure
from headrace_operator.decide.situation import look
from headrace_operator.decide.values import Observed, PodPhase, PodSample, PodState, Revision
from headrace_operator.service import InferenceDeployment
from observations import recorded, settled

TICK = 2.0  # seconds between two decisions
STEP = 0.5  # seconds of the fluid model
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, math.inf)
EPSILON = 1e-9


@dataclass(slots=True)
class Replica:
    """`slots` requests at a time, each for `service` seconds, first come first served."""

    name: str
    ordinal: int
    revision: str
    created_at: float
    slots: int
    service: float
    work: float  # tokens of a request
    ready_at: float | None = None
    unrouted_at: float | None = None
    deleted: bool = False
    scheduled: bool = True
    queue: list[list[float]] = field(default_factory=list)  # [arrived at, requests], oldest first
    in_service: list[list[float]] = field(default_factory=list)  # [ends at, requests]
    received: float = 0.0
    finished: float = 0.0
    tokens: float = 0.0
    waits: list[float] = field(default_factory=lambda: [0.0] * len(BOUNDS))
    longest_wait: float = 0.0

    @property
    def running(self) -> float:
        return sum(amount for _, amount in self.in_service)

    @property
    def waiting(self) -> float:
        return sum(amount for _, amount in self.queue)

    @property
    def is_idle(self) -> bool:
        return not self.in_service and not self.queue

    def arrive(self, amount: float, now: float) -> None:
        if amount > 0:
            self.queue.append([now, amount])
            self.received += amount

    def step(self, now: float) -> None:
        self.tokens += self.running * self.work * STEP / self.service
        self.finished += sum(amount for end, amount in self.in_service if end <= now + EPSILON)
        self.in_service = [[end, amount] for end, amount in self.in_service if end > now + EPSILON]
        free = self.slots - self.running
        while self.queue and free > EPSILON:
            arrived, amount = self.queue[0]
            started = min(amount, free)
            free -= started
            self._wait(now - arrived, started)
            self.in_service.append([now + self.service, started])
            if started >= amount - EPSILON:
                self.queue.pop(0)
            else:
                self.queue[0][1] -= started

    def _wait(self, seconds: float, amount: float) -> None:
        self.longest_wait = max(self.longest_wait, seconds)
        for index, bound in enumerate(BOUNDS):
            if seconds <= bound:
                self.waits[index] += amount

    def sample(self, now: float) -> PodSample:
        return PodSample(
            at=now,
            waiting=round(self.waiting),
            running=round(self.running),
            max_running=self.slots,
            oldest_waiting=now - self.queue[0][0] if self.queue else 0.0,
            received=self.received,
            finished=self.finished,
            finished_tokens=self.finished * self.work,
            tokens=self.tokens,
            queue_waits=tuple(zip(BOUNDS, self.waits, strict=True)),
        )

    def state(self, now: float, *, answers: bool) -> PodState:
        return PodState(
            name=self.name,
            uid=f"uid-{self.name}-{self.created_at}",
            ordinal=self.ordinal,
            revision=self.revision,
            phase=self._phase(),
            created_at=self.created_at,
            routable=self.unrouted_at is None,
            ready_at=self.ready_at,
            unrouted_at=self.unrouted_at,
            message="" if self.scheduled else "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
            sample=self.sample(now) if answers and self.ready_at is not None else None,
        )

    def _phase(self) -> PodPhase:
        if self.deleted:
            return PodPhase.TERMINATING
        if not self.scheduled:
            return PodPhase.UNSCHEDULABLE
        return PodPhase.STARTING if self.ready_at is None else PodPhase.READY


@dataclass(slots=True)
class Fluid:
    """One InferenceDeployment under load. `run` moves time; everything else is what happened."""

    deployment: InferenceDeployment
    load: Callable[[float], float]  # requests/s at a time
    cold_start: float = 90.0
    slots: int = 10
    service: float = 10.0
    work: float = 100.0
    gpus: int = 1000
    answers: Callable[[str, float], bool] = lambda name, now: True  # does this pod answer its scrape?
    restarts: frozenset[float] = frozenset()  # times at which the operator loses its memory
    remember: Callable[["Fluid"], History] | None = None  # what a restarted operator begins with
    now: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    history: History = field(default_factory=History)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    unrouted: float = 0.0  # requests that no replica could take yet
    longest_wait: float = 0.0
    revisions: tuple[Revision, ...] = field(init=False)  # on record

    def __post_init__(self) -> None:
        self.revisions = (recorded(self.deployment),)

    def run(self, seconds: float) -> "Fluid":
        end = self.now + seconds
        while self.now < end - EPSILON:
            if abs(self.now / TICK - round(self.now / TICK)) < EPSILON:
                self._decide()
            self.now += STEP
            self._flow()
        return self

    @property
    def routed(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready_at is not None and replica.unrouted_at is None]

    def observed(self) -> Observed:
        return Observed(
            tuple(replica.state(self.now, answers=self.answers(replica.name, self.now)) for replica in self.replicas),
            self.revisions,
        )

    def desired(self) -> list[int]:
        return [decision.replicas for _, decision in self.decisions]

    def changes(self) -> list[int]:
        """Every change of the wanted number, signed."""
        steps = [decision.replicas - decision.current for _, decision in self.decisions]
        return [step for step in steps if step]

    def reversals(self) -> int:
        signs = [step > 0 for step in self.changes()]
        return sum(one is not other for one, other in pairwise(signs))

    def _decide(self) -> None:
        if self.now in self.restarts and self.remember:
            self.history = self.remember(self)
        observed = self.observed()
        self.history, signals = measure(observed, self.history, self.now)
        decision = decide(look(self.deployment.scaling, observed, signals, self.history, self.now))
        self.history = remembered(self.history, decision, self.now)
        self.decisions.append((self.now, decision))
        for action in plan(
            self.deployment, "image", observed, decision, progress=settled(self.deployment), said=None, now=self.now
        ):
            match action:
                case CreatePod(body):
                    self._create(body["metadata"]["name"], body["metadata"]["labels"])
                case Unroute(name, _, _):
                    self._named(name).unrouted_at = self.now
                case DeletePod(name, _, _):
                    self._delete(self._named(name))
                case _:
                    pass

    def _create(self, name: str, labels: dict[str, str]) -> None:
        self.replicas.append(
            Replica(
                name=name,
                ordinal=int(labels["headrace.dev/ordinal"]),
                revision=labels["headrace.dev/revision"],
                created_at=self.now,
                slots=self.slots,
                service=self.service,
                work=self.work,
                scheduled=False,
            )
        )

    def _delete(self, replica: Replica) -> None:
        replica.deleted = True
        replica.unrouted_at = replica.unrouted_at or self.now

    def _named(self, name: str) -> Replica:
        return next(replica for replica in self.replicas if replica.name == name and not replica.deleted)

    def _flow(self) -> None:
        self._schedule()
        routed = self.routed
        self.unrouted += self.load(self.now) * STEP
        for replica in routed:
            replica.arrive(self.unrouted / len(routed), self.now)
        self.unrouted = 0.0 if routed else self.unrouted
        for replica in self.replicas:
            replica.step(self.now)
            self.longest_wait = max(self.longest_wait, replica.longest_wait)
        self.replicas = [replica for replica in self.replicas if not (replica.deleted and replica.is_idle)]

    def _schedule(self) -> None:
        for replica in self.replicas:
            if not replica.scheduled and sum(other.scheduled for other in self.replicas) < self.gpus:
                replica.scheduled = True
                replica.created_at = max(replica.created_at, self.now - STEP)
            is_started = replica.scheduled and self.now >= replica.created_at + self.cold_start - EPSILON
            if is_started and replica.ready_at is None:
                replica.ready_at = self.now
