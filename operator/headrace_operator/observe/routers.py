"""Routers' pods and their /metrics to RouterStates: what waits there while no replica is ready.

A deployment has routers of its own, or is one of the models of others, or both. Of its own everything counts; of the
others, what they hold for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_operator.decide.ports import ADMIN_PORT
from headrace_operator.decide.values import RouterSample, RouterState
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe.pods import is_ready, obstacle
from headrace_operator.observe.prometheus import lines, series
from headrace_operator.observe.scrape import Asking
from headrace_operator.routing_fields import ModelRouters

HELD, OLDEST = "headrace_router_held_requests", "headrace_router_oldest_held_seconds"
MODEL_HELD, MODEL_OLDEST = "headrace_router_model_held_requests", "headrace_router_model_oldest_held_seconds"
MOST = 1e9  # of each: above, it is no number of requests or seconds
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RouterReading:
    """One answer of one router."""

    total: RouterSample
    deployments: Mapping[str, RouterSample]  # by NAMESPACE/NAME: what it holds for each


class RouterScraper(Asking[RouterReading]):
    def _read(self, text: str, at: float) -> RouterReading:
        del at  # nothing here is a rate
        return reading(text)


def metrics_urls(bodies: Iterable[Body]) -> dict[str, str]:
    """Routers worth asking, by the UID of their pods: the ready ones. One that leaves still says what it holds."""
    return {
        body["metadata"]["uid"]: f"http://{body['status']['podIP']}:{ADMIN_PORT}/metrics"
        for body in bodies
        if is_ready(body) and body.get("status", {}).get("podIP")
    }


def states(bodies: Iterable[Body], readings: Mapping[str, RouterReading | None]) -> tuple[RouterState, ...]:
    """Of its own. `readings`: by UID, None of a router that did not answer."""
    found = []
    for body in bodies:
        reading = readings.get(body["metadata"]["uid"])
        found.append(_state(body, reading.total if reading else None))
    return tuple(sorted(found, key=lambda router: router.name))


def states_of_groups(
    deployment: str, groups: Mapping[ModelRouters, Iterable[Body]], readings: Mapping[str, RouterReading | None]
) -> tuple[RouterState, ...]:
    """Of model routers, for one `deployment` (NAMESPACE/NAME). One that does not know it holds nothing for it."""
    found = []
    for group, bodies in groups.items():
        for body in bodies:
            reading = readings.get(body["metadata"]["uid"])
            sample = reading.deployments.get(deployment) if reading else None
            why = f"its config has no model with deployment {deployment}" if reading and sample is None else ""
            found.append(_state(body, sample, str(group), why))
    return tuple(sorted(found, key=lambda router: router.name))


def _state(body: Body, sample: RouterSample | None, group: str = "", why: str = "") -> RouterState:
    """`why` it is no router for this deployment."""
    serves = is_ready(body) and "deletionTimestamp" not in body["metadata"] and not why
    message = why if is_ready(body) else obstacle(body)
    return RouterState(body["metadata"]["name"], serves, sample, message, group)


def reading(text: str) -> RouterReading:
    """Raises ScrapeFailed when a series is missing, or has a value that cannot be."""
    told = dict(lines(text))
    missing = [name for name in (HELD, OLDEST) if name not in told]
    if missing:
        raise ScrapeFailed(f"series missing: {missing[0]}")
    held, oldest = _by_deployment(told, MODEL_HELD), _by_deployment(told, MODEL_OLDEST)
    if held.keys() != oldest.keys():
        raise ScrapeFailed(f"{MODEL_HELD} and {MODEL_OLDEST} name other deployments")
    return RouterReading(
        _sample([_number(HELD, told[HELD])], [_number(OLDEST, told[OLDEST])]),
        {deployment: _sample(held[deployment], oldest[deployment]) for deployment in held},
    )


def _by_deployment(told: Mapping[str, str], name: str) -> dict[str, list[float]]:
    """Values of that series: one for each model that the deployment is."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for head, value in told.items():
        if head.startswith(name) and (one := series(head)) and one.name == name:
            found[one.labels.get("deployment", "")].append(_number(head, value))
    return found


def _number(head: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ScrapeFailed(f"no Prometheus text: {error}") from error
    if not 0 <= value <= MOST:
        raise ScrapeFailed(f"{head} is {value}")
    return value


def _sample(held: Sequence[float], oldest: Sequence[float]) -> RouterSample:
    return RouterSample(int(sum(held)), max(oldest))
