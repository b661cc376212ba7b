"""Policies by the names of the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from headrace_operator.errors import OperatorError
from headrace_operator.service import Scaling
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.headrace import Headrace
from headrace_operator.simulate.peers import hpa
from headrace_operator.simulate.peers.aibrix import AiBrix
from headrace_operator.simulate.peers.dynamo import Dynamo
from headrace_operator.simulate.peers.hpa import Hpa
from headrace_operator.simulate.peers.keda import Keda
from headrace_operator.simulate.peers.kpa import UTILIZATION, Kpa
from headrace_operator.simulate.peers.oracle import Oracle
from headrace_operator.simulate.peers.queue_wait import QueueWait
from headrace_operator.simulate.peers.ray import Ray
from headrace_operator.simulate.peers.static import Static
from headrace_operator.simulate.peers.wva_v1 import WvaV1
from headrace_operator.simulate.peers.wva_v2 import WvaV2
from headrace_operator.simulate.policy import Bounds, Policy
from headrace_operator.simulate.traces import Request


class UnknownPolicy(OperatorError):
    """No policy has this name: names those that there are."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a policy may be told when it is set up."""

    engine: Engine
    requests: Sequence[Request]
    cold_start: float  # seconds
    slo: float  # seconds
    scaling: Scaling
    interval: float  # seconds between two looks of Headrace

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.scaling.min_replicas, self.scaling.max_replicas)

    @property
    def mean(self) -> Request:
        """A request of the middle lengths."""
        prompt = round(fmean(request.prompt for request in self.requests))
        return Request(0.0, prompt, round(fmean(request.generated for request in self.requests)))


WAITING = 5.0  # requests a pod: the queue length at which published examples add replicas

PEERS: dict[str, Callable[[Case], Policy]] = {
    "hpa-waiting": lambda case: Hpa(hpa.waiting, WAITING, case.bounds),
    "hpa-concurrency": lambda case: Hpa(hpa.in_flight, case.engine.slots * UTILIZATION, case.bounds),
    "hpa-queue-wait": lambda case: Hpa(QueueWait(), case.slo, case.bounds),
    "kpa": lambda case: Kpa(case.engine.slots, case.bounds),
    "keda": lambda case: Keda(case.bounds),
    "ray": lambda case: Ray(case.bounds),
    "wva-v1": lambda case: WvaV1(case.bounds),
    "wva-v2": lambda case: WvaV2(case.engine.kv_tokens, case.bounds),
    "dynamo": lambda case: Dynamo(case.engine, case.mean, case.bounds),
    "aibrix": lambda case: AiBrix(case.bounds),
}
BOUND = "oracle"
NAMES = ("headrace", *PEERS, BOUND)


def check(name: str) -> None:
    """Raises UnknownPolicy."""
    kind, _, number = name.partition(":")
    if name not in NAMES and not (kind == "static" and number.isdigit() and int(number) > 0):
        raise UnknownPolicy(f"--policy {name!r} is not known; there are {', '.join(NAMES)} and static:N with N above 0")


def made(name: str, case: Case) -> Policy:
    """Raises UnknownPolicy."""
    check(name)
    if name == "headrace":
        return Headrace(case.scaling, case.interval)
    if name in PEERS:
        return PEERS[name](case)
    if name == BOUND:
        return Oracle(case.engine, case.requests, case.cold_start, case.slo, case.bounds)
    return Static(int(name.partition(":")[2]))
