"""What a server says of its own start in /metrics: when its weights were there, when it was warm, on which device.

Read from the first moment at which it listens, long before it is ready.
"""

import re
from dataclasses import dataclass

WANTED = re.compile(
    r"^headrace_(?:"
    r'startup_phase_timestamp_seconds\{phase="(?P<phase>weights|warming)"\}'
    r'|device_info\{device="(?P<device>[^"]*)"\}'
    r"|(?P<drained>drained)"
    r") (?P<value>\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    weights_at: float | None = None  # epoch seconds
    warmed_at: float | None = None  # epoch seconds
    device: str | None = None  # that the weights are on
    drained: bool | None = None  # None = a server that does not say


def server_facts(exposition: str) -> ServerFacts:
    """Raises ValueError for a number that is none."""
    found: dict[str, float] = {}
    device = None
    for match in WANTED.finditer(exposition):
        device = match["device"] or device
        found[match["phase"] or match["drained"] or "device"] = float(match["value"])
    drained = found.get("drained")
    return ServerFacts(found.get("weights"), found.get("warming"), device, None if drained is None else drained == 1)
