"""Who asked for which LoRA adapter, for the metrics."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial

from headrace_server.engine.sequence import Sequence
from headrace_server.metrics import ServerMetrics


class State(StrEnum):
    """Of a request, as `state` labels headrace_adapter_requests."""

    WAITING = "waiting"  # no step has included it yet
    RUNNING = "running"


def expose_adapters(metrics: ServerMetrics, adapters: Iterable[str], inside: Mapping[Sequence, object]) -> None:
    """`inside`: every request that has not ended, read at each scrape."""
    for adapter in adapters:
        for state in State:
            count = partial(_count, inside, adapter, state)
            metrics.adapter_requests.labels(adapter, state).set_function(count)


def _count(inside: Mapping[Sequence, object], adapter: str, state: State) -> int:
    found = (one for one in tuple(inside) if one.request.adapter == adapter)
    return sum((State.WAITING if one.queue_wait is None else State.RUNNING) is state for one in found)
