"""Routers' pods and their /metrics to RouterStates: what waits there while no replica is ready."""

from collections.abc import Iterable, Mapping
from typing import Any

from headrace_operator.decide.ports import ADMIN_PORT
from headrace_operator.decide.values import RouterSample, RouterState
from headrace_operator.errors import ScrapeFailed
from headrace_operator.observe.pods import is_ready, obstacle
from headrace_operator.observe.prometheus import lines

HELD, OLDEST = "headrace_router_held_requests", "headrace_router_oldest_held_seconds"
READ = (HELD, OLDEST)
MOST = 1e9  # of either: above, it is no number of requests or seconds
Body = Mapping[str, Any]


def metrics_urls(bodies: Iterable[Body]) -> dict[str, str]:
    """Routers worth asking, by the UID of their pods: the ready ones. One that leaves still says what it holds."""
    return {
        body["metadata"]["uid"]: f"http://{body['status']['podIP']}:{ADMIN_PORT}/metrics"
        for body in bodies
        if is_ready(body) and body.get("status", {}).get("podIP")
    }


def states(bodies: Iterable[Body], samples: Mapping[str, RouterSample | None]) -> tuple[RouterState, ...]:
    """`samples`: by UID, None of a router that did not answer."""
    found = [
        RouterState(
            body["metadata"]["name"],
            is_ready(body) and "deletionTimestamp" not in body["metadata"],
            samples.get(body["metadata"]["uid"]),
            "" if is_ready(body) else obstacle(body),
        )
        for body in bodies
    ]
    return tuple(sorted(found, key=lambda router: router.name))


def sample(text: str, at: float) -> RouterSample:
    """Raises ScrapeFailed when a series is missing, or has a value that cannot be."""
    del at  # nothing here is a rate
    told = dict(lines(text))
    try:
        held, oldest = (float(told[name]) for name in READ)
    except KeyError as missing:
        raise ScrapeFailed(f"series missing: {missing.args[0]}") from missing
    except ValueError as error:
        raise ScrapeFailed(f"no Prometheus text: {error}") from error
    if not (0 <= held <= MOST and 0 <= oldest <= MOST):
        raise ScrapeFailed(f"{HELD} is {held}, {OLDEST} is {oldest}")
    return RouterSample(int(held), oldest)
