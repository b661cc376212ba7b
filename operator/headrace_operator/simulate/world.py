"""Time, requests and one policy: what happened is read from the world when it has run."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from headrace_operator.decide.values import PodSample, RouterSample
from headrace_operator.simulate import routers
from headrace_operator.simulate.engine import USUAL, Engine
from headrace_operator.simulate.faults import NONE, Faults
from headrace_operator.simulate.fleet import Fleet, SimulatedPod
from headrace_operator.simulate.policy import Look, Pod, Policy
from headrace_operator.simulate.replica import Waits
from headrace_operator.simulate.routers import Router, Routers
from headrace_operator.simulate.traces import Request

HASTE = 0.5  # share of the server's hint by which a refused request comes back sooner or later
PATIENCE = 3600.0  # seconds after the last request after which what still waits is counted with its wait so far
TURN, READY, TICK, ARRIVAL, CHANGE, IMPATIENT, TOO_LATE = range(7)  # kinds of events
About = SimulatedPod | Request | Router | tuple[Request, SimulatedPod] | None
Sample = TypeVar("Sample", PodSample, RouterSample)


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything but the policy."""

    engine: Engine = USUAL
    cold_start: float = 90.0  # seconds, from order to Ready, in the middle
    start: int = 4  # replicas that serve at the beginning
    faults: Faults = NONE
    routing: str = "two-choices"  # | random | least | router
    seed: int = 1
    routers: Routers | None = None  # None: a Service


@dataclass(frozen=True, slots=True)
class Moment:
    """One look of the policy."""

    at: float  # seconds
    desired: int
    ready: int
    waiting: int  # requests


@dataclass(slots=True)
class World:
    setting: Setting
    requests: Sequence[Request]  # by time
    policy: Policy
    progress: Callable[[float], None] = lambda now: None  # told of simulated time now and then
    now: float = 0.0
    waits: Waits = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    holds: Waits = field(default_factory=list)  # (arrived at, seconds held) of requests that were, as they go on
    refused: list[float] = field(default_factory=list)  # (arrived at) of requests, by a router and for good
    routers: tuple[Router, ...] = field(init=False)
    fleet: Fleet = field(init=False)
    _events: list[tuple[float, int, int, About, int]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)
    _rng: random.Random = field(init=False)
    _noise: random.Random = field(init=False)  # of the metrics, so that loss does not change the routing
    _doors: random.Random = field(init=False)  # which router a request comes to
    _desired: int = 0
    _known: dict[int, list[tuple[float, Any]]] = field(default_factory=dict)  # what was answered, by whom

    def __post_init__(self) -> None:
        setting = self.setting
        self.fleet = Fleet(setting.engine, setting.cold_start, setting.faults, setting.seed)
        self.fleet.start(setting.start, 0.0)
        self.routers = routers.made(setting.routers)
        self._rng, self._noise, self._doors = (random.Random(setting.seed) for _ in range(3))
        self._desired = setting.start
        self._at(0.0, TICK)
        for at, _ in setting.faults.gpus:
            self._at(at, CHANGE)

    def run(self) -> "World":
        """To the end of the trace, and on until everybody was served or patience ends."""
        requests, events, index, total = self.requests, self._events, 0, len(self.requests)
        last = requests[-1].at if requests else 0.0
        arrival = requests[0].at if requests else math.inf
        while True:
            if arrival <= events[0][0]:
                self.now = arrival
                self._route(requests[index])
                index += 1
                arrival = requests[index].at if index < total else math.inf
                continue
            at, _, kind, about, version = heappop(events)
            if kind == TURN:
                if about.replica.version == version:  # type: ignore[union-attr]
                    self.now = at
                    self._turn(about)  # type: ignore[arg-type]
                continue
            self.now = at
            if at > last and (self._is_served() or at > last + PATIENCE):
                break
            self._happen(kind, about)
        self.waits += [(request.at, self.now - request.at) for request in self._still_waiting()]
        return self

    def _happen(self, kind: int, about: About) -> None:
        if kind == TICK:
            self._tick()
        elif isinstance(about, Request):
            self._route(about)
        elif isinstance(about, SimulatedPod):
            self._ready(about)
        elif isinstance(about, Router):
            self._give_up(about)
        elif about is not None:
            self._ask_again(*about)
        else:
            self._lose()

    def _tick(self) -> None:
        self._desired = self.policy.replicas(self.look())
        self._size()
        waiting = sum(pod.replica.queued for pod in self.fleet.routed)
        waiting += sum(len(router.held) for router in self.routers)
        self.moments.append(Moment(self.now, self._desired, len(self.fleet.routed), waiting))
        self.progress(self.now)
        self._at(self.now + self.policy.interval, TICK)

    def look(self) -> Look:
        """What the policy may see now."""
        faults, now = self.setting.faults, self.now
        is_out = faults.is_out(now)
        kept: list[Pod] = []
        draining: list[Pod] = []
        for pod in self.fleet.pods:
            sample = None if is_out or pod.ready_at is None or self._is_lost() else self._answer(pod)
            seen = Pod(
                pod.ordinal, pod.created_at, pod.ready_at,
                pod.created_at if pod.scheduled_at is None else None, sample, pod.replica.kv_share(),
            )  # fmt: skip
            (kept if pod.unrouted_at is None else draining).append(seen)
        asked = self.routers if self.setting.routers else ()
        held = [None if is_out or self._is_lost() else self._late(id(router), router.sample(now)) for router in asked]
        return Look(now, self._desired, tuple(kept), tuple(draining), tuple(held))

    def _is_lost(self) -> bool:
        """An answer."""
        loss = self.setting.faults.metrics_loss
        return loss > 0 and self._noise.random() < loss

    def _answer(self, pod: SimulatedPod) -> PodSample | None:
        sample = pod.replica.sample(self.now)
        return self._late(id(pod), _lie(sample) if pod.ordinal in self.setting.faults.liars else sample)

    def _late(self, who: int, sample: Sample) -> Sample | None:
        """What was said as long ago as answers take. None: nothing was."""
        faults = self.setting.faults
        if not faults.metrics_delay:
            return sample
        known = self._known.setdefault(who, [])
        known.append((self.now, sample))
        while len(known) > 1 and known[1][0] <= self.now - faults.metrics_delay:
            known.pop(0)
        at, old = known[0]
        return old if at <= self.now - faults.metrics_delay else None

    def _size(self) -> None:
        fleet = self.fleet
        if self._desired != len(fleet.live):
            fleet.size(self._desired, self.now)
            self._expect()

    def _expect(self) -> None:
        """Every start that was drawn is an event once."""
        self.fleet.schedule(self.now)
        for pod in self.fleet.pods:
            if pod.ready_at is None and pod.scheduled_at == self.now:
                self._at(pod.starts_at, READY, pod)

    def _ready(self, pod: SimulatedPod) -> None:
        if not pod.is_live or pod.ready_at is not None:
            return
        pod.ready_at = pod.replica.at = self.now
        self.fleet.routed.append(pod)
        self._release()

    def _lose(self) -> None:
        for pod in self.fleet.lost(self.now):
            replica = pod.replica
            self.fleet.remove(pod, self.now)
            if pod.gone_at is None:
                self.fleet.end(pod, self.now)
            replica.version += 1  # what it would have done next never happens
            for request in replica.inside():
                self._route(request._replace(at=self.now))  # who lost an answer asks again
        self._expect()

    def _route(self, request: Request) -> None:
        """To a replica, or behind those who wait for one already."""
        router = self.routers[int(self._doors.random() * len(self.routers))]
        if self.fleet.routed and not router.held:
            self._send(request, self.fleet.routed)
        elif not router.take(request, self.now):
            self.refused.append(request.at)
        elif router.seconds < math.inf:
            self._at(self.now + router.seconds, TOO_LATE, router)

    def _release(self) -> None:
        """Those who are held go on while somebody has room."""
        while holding := [router for router in self.routers if router.held]:
            router = min(holding, key=lambda each: each.held[0][0])
            most = router.fill * self.setting.engine.slots
            roomy = [pod for pod in self.fleet.routed if pod.replica.in_flight < most]
            if not roomy:
                return
            since, request = router.held.popleft()
            self._held(request, since)
            self._send(request, roomy)

    def _give_up(self, router: Router) -> None:
        for since, request in router.too_late(self.now):
            self._held(request, since)
            self.refused.append(request.at)

    def _held(self, request: Request, since: float) -> None:
        """Of one whom a replica refused before, nothing is told twice."""
        if not request.is_again:
            self.holds.append((request.at, self.now - since))

    def _send(self, request: Request, among: list[SimulatedPod]) -> None:
        pod = self._choice(among)
        replica = pod.replica
        before = replica.version
        again = replica.arrive(request, self.now, self.waits)
        if again is not None:
            self._at(self.now + again * (1 + HASTE * (2 * self._rng.random() - 1)), ARRIVAL, self._again(request))
            return
        if self.setting.faults.retry_after is not None and replica.queued:
            self._at(self.now + self.setting.faults.retry_after, IMPATIENT, (request, pod))
        if replica.version != before:
            heappush(self._events, (replica.next_at, next(self._numbers), TURN, pod, replica.version))

    def _ask_again(self, request: Request, pod: SimulatedPod) -> None:
        """Who lost patience."""
        if not pod.replica.holds(request):
            return
        if self.setting.faults.hangs_up:
            pod.replica.drop(request)
            self._route(self._again(request))
        else:
            self._route(request._replace(at=self.now))

    def _again(self, request: Request) -> Request:
        """A second try, of a client that says so."""
        return request._replace(is_again=self.setting.faults.tells_retries)

    def _choice(self, routed: list[SimulatedPod]) -> SimulatedPod:
        """Two choices: of two at random the one with fewer requests inside, as of a balancer that asks no more."""
        routing, number = self.setting.routing, len(routed)
        if routing == "least":
            return min(routed, key=lambda pod: pod.replica.in_flight)
        if routing == "router":
            places = routers.allowed([pod.replica.in_flight for pod in routed], self.setting.engine.slots)
            return routed[places[int(self._rng.random() * len(places))]]
        one = routed[int(self._rng.random() * number)]
        if routing == "random":
            return one
        other = routed[int(self._rng.random() * number)]
        return one if one.replica.in_flight <= other.replica.in_flight else other

    def _turn(self, pod: SimulatedPod) -> None:
        replica = pod.replica
        replica.turn(self.waits)
        if replica.next_at < math.inf:
            heappush(self._events, (replica.next_at, next(self._numbers), TURN, pod, replica.version))
        elif pod.unrouted_at is not None and not replica.in_flight:
            self.fleet.end(pod, self.now)
            self._expect()
        self._release()

    def _at(self, at: float, kind: int, about: About = None) -> None:
        heappush(self._events, (at, next(self._numbers), kind, about, 0))

    def _is_served(self) -> bool:
        return (
            not any(router.held for router in self.routers)
            and not any(pod.replica.queued for pod in self.fleet.pods)
            and not any(event[2] == ARRIVAL for event in self._events)
        )

    def _still_waiting(self) -> list[Request]:
        inside = [request for pod in self.fleet.pods for request in pod.replica.waiting]
        held = [request for router in self.routers for _, request in router.held]
        return [*inside, *held, *(event[3] for event in self._events if isinstance(event[3], Request))]


def _lie(sample: PodSample) -> PodSample:
    return replace(sample, running=0, waiting=1000, oldest_waiting=60.0)
