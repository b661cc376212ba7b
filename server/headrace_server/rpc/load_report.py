"""How busy this server is, for those who choose where the next request goes.

GET /load has it in full. With each answer it comes as ORCA has it: over gRPC as the trailer endpoint-load-metrics-bin,
over HTTP as a header when the request asks for one, with `endpoint-load-metrics-format: JSON`, `TEXT` or `BIN`.
"""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.pb.orca_pb2 import OrcaLoadReport
from headrace_server.telemetry.values import value_of

WANTED = "endpoint-load-metrics-format"
HEADER = "endpoint-load-metrics"
BINARY = "endpoint-load-metrics-bin"


@dataclass(frozen=True, slots=True)
class LoadReport:
    waiting: int  # requests
    running: int  # requests
    max_running: int
    kv_usage: float  # share of the KV pages that a new request cannot have

    @property
    def utilization(self) -> float:
        """Of what is scarcest: places or pages. Beyond 1 what waits counts, too."""
        places = (self.running + self.waiting) / self.max_running if self.max_running else 0.0
        return max(places, self.kv_usage)

    def named(self) -> dict[str, float]:
        """As vLLM names them."""
        return {
            "kv_cache_usage_perc": self.kv_usage,
            "num_requests_waiting": float(self.waiting),
            "num_requests_running": float(self.running),
        }

    def binary(self) -> bytes:
        report = OrcaLoadReport(named_metrics=self.named(), application_utilization=self.utilization)
        return bytes(report.SerializeToString())

    def header(self, wanted: str) -> tuple[str, str] | None:
        """Name and value; None for a format that nobody knows, which is the caller's loss."""
        match wanted.upper():
            case "JSON":
                document = {"application_utilization": self.utilization, "named_metrics": self.named()}
                return HEADER, "JSON " + json.dumps(document)
            case "TEXT":
                named = [f"named_metrics.{name}={value:g}" for name, value in self.named().items()]
                return HEADER, "TEXT " + ",".join([f"application_utilization={self.utilization:g}", *named])
            case "BIN":
                return BINARY, base64.b64encode(self.binary()).decode()
            case _:
                return None


def load_now(metrics: ServerMetrics) -> LoadReport:
    return LoadReport(
        waiting=int(value_of(metrics.requests_waiting) or 0),
        running=int(value_of(metrics.requests_running) or 0),
        max_running=int(value_of(metrics.max_running) or 0),
        kv_usage=value_of(metrics.kv_pressure) or 0.0,
    )


def in_header(metrics: ServerMetrics) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For aiohttp's on_response_prepare."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        wanted = request.headers.get(WANTED)
        header = None if wanted is None else load_now(metrics).header(wanted)
        if header is not None:
            response.headers[header[0]] = header[1]

    return add


def in_trailers(metrics: ServerMetrics) -> tuple[tuple[str, bytes], ...]:
    return ((BINARY, load_now(metrics).binary()),)
