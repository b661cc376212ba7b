"""Envoy's word that a request is over, a line each."""

import json
from dataclasses import dataclass

# Response flags of Envoy that blame the replica: no connection, connection ended, reset, refused, no reply in time.
UNREACHABLE = {"UF", "UC", "UR", "LR", "UT", "URX", "UPE"}


@dataclass(frozen=True, slots=True)
class Over:
    stream: str
    reached: bool  # the replica that was named first answered
    host: str = ""  # the replica that was tried last, as Envoy names it
    trouble: str = ""  # why no connection to it came about, such as a certificate that has expired


def over(line: bytes) -> Over | None:
    """None for a line that is none of ours: Envoy writes its start-up there, too."""
    if not line.startswith(b"{"):
        return None
    told = json.loads(line)
    stream = told.get("stream")
    if not stream:
        return None
    blamed = not UNREACHABLE.isdisjoint((told.get("flags") or "").split(","))
    reached = not blamed and (told.get("attempts") or 1) <= 1
    return Over(stream, reached, told.get("host") or "", told.get("trouble") or "")
