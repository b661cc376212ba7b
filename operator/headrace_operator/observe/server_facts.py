"""What a server says of its own start in /metrics: when its weights were there, when it was warm, on which device.

Read from the first moment at which it listens, long before it is ready.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from headrace_operator.observe.prometheus import Series, lines

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


def facts(told: Iterable[tuple[Series, str]]) -> ServerFacts:
    """Raises ValueError for a number that is none."""
    phases: dict[str, float] = {}
    device, drained = None, None
    for series, text in told:
        if series.name == PHASE:
            phases[series.labels.get("phase", "")] = float(text)
        elif series.name == DEVICE:
            device = series.labels.get("device") or device
        elif series.name == DRAINED:
            drained = float(text) == 1
    return ServerFacts(phases.get("weights"), phases.get("warming"), device, drained)
