"""The same requests through several policies, each in a world of its own with the same chances."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from headrace_operator.service import Scaling
from headrace_operator.simulate.engine import USUAL, Engine
from headrace_operator.simulate.faults import NONE, Faults
from headrace_operator.simulate.outcome import Outcome, outcome
from headrace_operator.simulate.peers.static import Static
from headrace_operator.simulate.policies import Case, bounded, check, made
from headrace_operator.simulate.routers import Routers
from headrace_operator.simulate.traces import Request, lead_in
from headrace_operator.simulate.world import Moment, Setting, World


@dataclass(frozen=True, slots=True)
class Comparison:
    requests: Sequence[Request]  # of the trace, by time
    scaling: Scaling  # what Headrace is told; the peers keep its bounds
    engine: Engine = USUAL
    cold_start: float = 90.0  # seconds
    slo: float = 1.0  # seconds
    lead_in: float = 0.0  # seconds of the trace that are played once before it, unmeasured
    interval: float = 2.0  # seconds between two looks of Headrace
    start: int | None = None  # replicas at the beginning; None = minReplicas
    faults: Faults = NONE
    routing: str = "two-choices"
    seed: int = 1
    routers: Routers | None = None  # that hold requests while no replica is ready; None = a Service

    @property
    def played(self) -> Sequence[Request]:
        return lead_in(list(self.requests), self.lead_in) if self.lead_in else self.requests

    @property
    def end(self) -> float:
        """Seconds of simulated time at which the trace is over."""
        return self.lead_in + self.requests[-1].at


@dataclass(frozen=True, slots=True)
class Run:
    name: str  # of the policy
    outcome: Outcome
    moments: tuple[Moment, ...]  # of the measured time; at = seconds of the trace

    @property
    def row(self) -> dict[str, object]:
        return self.outcome.row(self.name)


Progress = Callable[[float], None]  # told of seconds of simulated time


def run(comparison: Comparison, name: str, progress: Progress = lambda now: None) -> Run:
    """Raises UnknownPolicy."""
    world = simulated(comparison, name, progress)
    begin = comparison.lead_in
    measured = tuple(
        replace(moment, at=moment.at - begin) for moment in world.moments if begin <= moment.at <= comparison.end
    )
    return Run(name, outcome(world, comparison.slo, begin, comparison.end), measured)


def simulated(comparison: Comparison, name: str, progress: Progress = lambda now: None) -> World:
    """Raises UnknownPolicy."""
    check(name)
    requests, scaling = comparison.played, bounded(comparison.scaling, name)
    case = Case(comparison.engine, requests, comparison.cold_start, comparison.slo, scaling, comparison.interval)
    policy = made(name, case)
    start = comparison.start or scaling.min_replicas
    setting = Setting(
        engine=comparison.engine,
        cold_start=comparison.cold_start,
        start=policy.number if isinstance(policy, Static) else start,
        faults=comparison.faults,
        routing=comparison.routing,
        seed=comparison.seed,
        routers=comparison.routers,
    )
    return World(setting, requests, policy, progress).run()


def run_all(comparison: Comparison, names: Sequence[str], jobs: int, progress: Progress) -> Iterator[Run]:
    """In the order of `names`. With several jobs, progress is told once a policy."""
    if jobs <= 1:
        for name in names:
            yield run(comparison, name, progress)
        return
    with ProcessPoolExecutor(min(jobs, len(names))) as pool:
        for done in pool.map(run, [comparison] * len(names), names):
            progress(comparison.end)
            yield done
