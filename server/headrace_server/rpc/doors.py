"""Both doors of one process, opened and closed together."""

import time
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry

from headrace_server.config import ServerConfig
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.drain_call import DrainCall
from headrace_server.rpc.grpc_server import GrpcServer, start_grpc_server
from headrace_server.rpc.http import Endpoints, application, start_http_server
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.service import InferenceService, Served

LAST_BYTES = 1.0  # seconds for what is written but not yet sent when a door closes


@dataclass(frozen=True, slots=True)
class Doors:
    readiness: Readiness
    arrivals: Arrivals
    grpc: GrpcServer
    grpc_port: int
    http: web.AppRunner
    http_port: int
    drain_call: DrainCall

    async def serve(self, answers: Answers) -> None:
        """From now on /ready says 200, health says SERVING, and requests are answered."""
        self.readiness.open(answers)
        await self.grpc.say_serving()

    async def turn_away(self, phase: Phase) -> None:
        """/ready says 503 and health NOT_SERVING, for good; requests that still come are not refused by this."""
        self.readiness.enter(phase)
        await self.grpc.say_not_serving_any_more()

    async def close(self) -> None:
        await self.grpc.server.stop(LAST_BYTES)
        await self.http.cleanup()


async def open_doors(config: ServerConfig, metrics: ServerMetrics, registry: CollectorRegistry) -> Doors:
    """HTTP first, so that /health answers from the start. Raises OSError when a port is taken."""
    readiness, arrivals = Readiness(metrics), Arrivals(time.monotonic)
    metrics.requests_inside.set_function(lambda: arrivals.inside)
    drain_call = DrainCall(config.drain_token, arrivals)
    wall_clock = time.time  # noqa: TID251 - `created` in OpenAI's answers is a date
    started_at = int(wall_clock())
    endpoints = Endpoints(config.name, readiness, metrics, registry, arrivals, wall_clock, started_at, drain_call)
    http, http_port = await start_http_server(application(endpoints), config.host, config.http_port)
    served = Served(config.name, config.device, config.dtype)
    service = InferenceService(served, readiness, metrics, arrivals)
    try:
        grpc = await start_grpc_server(service, config.host, config.grpc_port, config.max_connection_age)
    except OSError:
        await http.cleanup()
        raise
    return Doors(readiness, arrivals, grpc, grpc.port, http, http_port, drain_call)
