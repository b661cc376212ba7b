"""What came with a request beside its words: the trace it is part of, and whether it was asked before.

Header and metadata names are lower case here, and the same at both doors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Requests that were sent before say so: OpenAI's SDK, gRPC's own retries, and Envoy, which counts the first one, too.
COUNTED_FROM_ZERO = ("x-stainless-retry-count", "grpc-previous-rpc-attempts")
COUNTED_FROM_ONE = "x-envoy-attempt-count"
MOST_DIGITS = 4


@dataclass(frozen=True, slots=True)
class CameWith:
    traceparent: str = ""  # W3C trace context, as it came; "" = the caller is not part of a trace
    tracestate: str = ""
    attempts_before: int = 0  # as the caller says


ALONE = CameWith()


def came_with(headers: Mapping[str, str]) -> CameWith:
    """Nothing in them can make a request fail: what makes no sense is left out."""
    before = [_count(headers.get(name, "")) for name in COUNTED_FROM_ZERO]
    before.append(_count(headers.get(COUNTED_FROM_ONE, "")) - 1)
    return CameWith(headers.get("traceparent", ""), headers.get("tracestate", ""), max(0, *before))


def _count(word: str) -> int:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS else 0
