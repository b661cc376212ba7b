"""Policies by the names of the command line: NAME, or NAME:TARGET for those that have a number to tune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from headrace_operator.errors import OperatorError
from headrace_operator.service import Forecast, Scaling
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.headrace import Headrace
from headrace_operator.simulate.peers import aibrix, hpa, keda, ray
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


@dataclass(frozen=True, slots=True)
class Kind:
    """How a policy is made, and the one number that its users tune; None = it has none."""

    make: Callable[[Case, float], Policy]
    usual: Callable[[Case], float] | None = None  # its own default
    reaches_zero: bool = False  # the minimum may be 0; of all others it is 1 then


def _utilized(case: Case, utilization: float) -> Policy:
    scaling = replace(case.scaling, utilization=utilization, forecast=Forecast.DISABLED)
    return Headrace(scaling, case.interval)


def _forecasting(case: Case, utilization: float) -> Policy:
    return Headrace(replace(case.scaling, utilization=utilization, forecast=Forecast.TREND), case.interval)


def _oracle(case: Case, utilization: float) -> Policy:
    return Oracle(case.engine, case.requests, case.cold_start, case.slo, case.bounds, utilization)


WAITING = 5.0  # requests a pod: the queue length at which published examples add replicas
SHARE = 0.7  # of the slots, or of a replica
KEPT = "headrace-one"  # as headrace, and never without a replica
KINDS: dict[str, Kind] = {
    "headrace": Kind(_utilized, lambda case: case.scaling.utilization, reaches_zero=True),
    KEPT: Kind(_utilized, lambda case: case.scaling.utilization),
    "headrace-forecast": Kind(_forecasting, lambda case: case.scaling.utilization, reaches_zero=True),
    "hpa-waiting": Kind(lambda case, target: Hpa(hpa.waiting, target, case.bounds), lambda _: WAITING),
    "hpa-concurrency": Kind(
        lambda case, target: Hpa(hpa.in_flight, case.engine.slots * target, case.bounds), lambda _: UTILIZATION
    ),
    "hpa-queue-wait": Kind(lambda case, target: Hpa(QueueWait(), target, case.bounds), lambda case: case.slo),
    "kpa": Kind(lambda case, target: Kpa(case.engine.slots, case.bounds, target), lambda _: UTILIZATION),
    "keda": Kind(lambda case, target: Keda(case.bounds, target), lambda _: keda.THRESHOLD),
    "ray": Kind(lambda case, target: Ray(case.bounds, target), lambda _: ray.TARGET),
    "wva-v1": Kind(lambda case, _: WvaV1(case.bounds)),
    "wva-v2": Kind(lambda case, _: WvaV2(case.engine.kv_tokens, case.bounds)),
    "dynamo": Kind(lambda case, _: Dynamo(case.engine, case.mean, case.bounds)),
    "aibrix": Kind(lambda case, target: AiBrix(case.bounds, target), lambda _: aibrix.TARGET),
    "oracle": Kind(_oracle, lambda _: SHARE),
    "static": Kind(lambda _, number: Static(int(number))),
}
KNOWN = ", ".join(name for name in KINDS if name != "static") + " and static:N"
TUNABLE = tuple(name for name, kind in KINDS.items() if kind.usual)


def check(name: str) -> None:
    """Raises UnknownPolicy."""
    kind, _, number = name.partition(":")
    if kind == "static":
        if not number.isdigit() or not int(number):
            raise UnknownPolicy(f"--policy {name!r}: it must be static:N with N above 0")
    elif kind not in KINDS:
        raise UnknownPolicy(f"--policy {name!r} is not known; there are {KNOWN}")
    elif number and kind not in TUNABLE:
        raise UnknownPolicy(f"--policy {name!r}: {kind} has no target to set; {', '.join(TUNABLE)} have")
    elif ":" in name and not _is_positive(number):
        raise UnknownPolicy(f"--policy {name!r}: the target of {kind} must be a number above 0, such as {kind}:0.5")


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def bounded(scaling: Scaling, name: str) -> Scaling:
    """With the minimum that the policy of that name keeps: most of them are not simulated below one replica."""
    if KINDS[name.partition(":")[0]].reaches_zero:
        return scaling
    schedules = tuple(
        each if each.min_replicas is None else replace(each, min_replicas=max(1, each.min_replicas))
        for each in scaling.schedules
    )
    return replace(scaling, min_replicas=max(1, scaling.min_replicas), schedules=schedules)


def reaches_zero(scaling: Scaling) -> bool:
    """At any time."""
    return 0 in {scaling.min_replicas, *(each.min_replicas for each in scaling.schedules)}


def is_kept(name: str) -> bool:
    return name.partition(":")[0] == KEPT


def compared(names: Sequence[str], scaling: Scaling) -> list[str]:
    """With the policy beside which one sees what going to zero saves and costs, where one of them does."""
    going = [name for name in names if KINDS[name.partition(":")[0]].reaches_zero]
    if not reaches_zero(scaling) or not going or any(map(is_kept, names)):
        return list(names)
    _, colon, target = going[0].partition(":")
    place = names.index(going[0]) + 1
    return [*names[:place], f"{KEPT}{colon}{target}", *names[place:]]


def made(name: str, case: Case) -> Policy:
    """Raises UnknownPolicy."""
    check(name)
    kind, _, number = name.partition(":")
    known = KINDS[kind]
    return known.make(case, float(number) if number else known.usual(case) if known.usual else 0.0)
