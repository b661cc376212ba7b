"""What a server says of its own start in /metrics: when its weights were there, when it was warm, on which device.

Read from the first moment at which it listens, long before it is ready.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from headrace_operator.observe.prometheus import REMEMBERED, Line, Series, lines, series

PHASE, DEVICE, DRAINED = "headrace_startup_phase_timestamp_seconds", "headrace_device_info", "headrace_drained"
READ = (PHASE, DEVICE, DRAINED)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    weights_at: float | None = None  # epoch seconds
    warmed_at: float | None = None  # epoch seconds
    device: str | None = None  # that the weights are on
    drained: bool | None = None  # None = a server that does not say


def server_facts(exposition: str) -> ServerFacts:
    """Raises ValueError for a number that is none."""
    return facts(lines(exposition))


def facts(told: Iterable[Line]) -> ServerFacts:
    """Raises ValueError for a number that is none."""
    phases: dict[str, float] = {}
    device, drained = None, None
    for head, text in told:
        found = _wanted(head)
        if found is None:
            continue
        if found.name == PHASE:
            phases[found.labels.get("phase", "")] = float(text)
        elif found.name == DEVICE:
            device = found.labels.get("device") or device
        else:
            drained = float(text) == 1
    return ServerFacts(phases.get("weights"), phases.get("warming"), device, drained)


@lru_cache(maxsize=REMEMBERED)
def _wanted(head: str) -> Series | None:
    found = series(head)
    return found if found and found.name in READ else None
