"""Both doors of one process, opened and closed together."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry

from headrace_server.config import ServerConfig
from headrace_server.embedding import Embedder
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.access import access
from headrace_server.rpc.admin import Admin, AdminToken
from headrace_server.rpc.answers import Answers
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.batches.endpoints import BatchEndpoints, batch_routes
from headrace_server.rpc.batches.store import Store
from headrace_server.rpc.caches.front import Caches
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.calls import Calls, Served
from headrace_server.rpc.drain_call import DrainCall
from headrace_server.rpc.gate import GrpcGate, http_gate, tell_cached
from headrace_server.rpc.grpc_server import GrpcServer, GrpcServices, start_grpc_server
from headrace_server.rpc.http import Endpoints, admin_application, application, start_http_server
from headrace_server.rpc.http_connections import HttpConnections
from headrace_server.rpc.load_report import in_header
from headrace_server.rpc.oip_grpc import OipService
from headrace_server.rpc.oip_http import PROBES, oip_routes
from headrace_server.rpc.process_calls import ProcessCalls
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.rpc.service import InferenceService
from headrace_server.rpc.text_tokens import TextTokens
from headrace_server.rpc.watched import keep_watching
from headrace_server.telemetry.expose import expose
from headrace_server.telemetry.told import told_of_answers

LAST_BYTES = 1.0  # seconds for what is written but not yet sent when a door closes


@dataclass(frozen=True, slots=True)
class Doors:
    readiness: Readiness
    arrivals: Arrivals
    grpc: GrpcServer
    grpc_port: int
    http: web.AppRunner
    http_port: int
    connections: HttpConnections  # of the HTTP port
    admin: web.AppRunner | None  # None: its routes are on the HTTP port
    admin_port: int
    drain_call: DrainCall
    store: Store | None  # of offline jobs
    watching: "asyncio.Task[None] | None"  # of files that may change
    caches: Caches

    async def serve(
        self, answers: Answers | None, embedder: Embedder | None = None, tokens: TextTokens | None = None
    ) -> None:
        """From now on /ready says 200, health says SERVING, and requests are answered. `tokens`: an embedder's."""
        self.readiness.open(self.caches.before(answers), self.caches.before_embedder(embedder), tokens)
        await self.grpc.say_serving()

    async def turn_away(self, phase: Phase) -> None:
        """/ready says 503 and health NOT_SERVING, for good; requests that still come are not refused by this."""
        self.readiness.enter(phase)
        await self.grpc.say_not_serving_any_more()

    def hang_up_idle_http(self) -> None:
        if self.http.server is not None:
            self.connections.hang_up_idle(self.http.server)

    async def close(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
        await self.grpc.server.stop(LAST_BYTES)
        await self.http.cleanup()
        if self.admin is not None:
            await self.admin.cleanup()
        if self.store is not None:
            await self.store.close()
        await self.readiness.close()


async def open_doors(
    config: ServerConfig,
    metrics: ServerMetrics,
    registry: CollectorRegistry,
    wall_clock: Callable[[], float] = time.time,  # noqa: TID251 - OpenAI's `created` and `expires_at` are dates
) -> Doors:
    """HTTP first, so that /health answers from the start. Raises OSError when a port or the batch store is taken."""
    readiness, arrivals = Readiness(metrics, told_of_answers(config, metrics)), Arrivals(time.monotonic)
    metrics.requests_inside.set_function(lambda: arrivals.inside)
    expose(config, metrics)
    drain_call = DrainCall(arrivals)
    token = AdminToken(config.drain_token)
    admin_calls = Admin(registry, drain_call, token)
    allowed = access(config.access, metrics, wall_clock)
    callers = Callers(config.trust_tenant_header, allowed.gate.asks)
    names = config.lora.names
    endpoints = Endpoints(config.name, readiness, metrics, arrivals, wall_clock, int(wall_clock()), callers, names)
    calls = Calls(Served(config.name, config.device, config.dtype), readiness, metrics, arrivals, callers)
    services = GrpcServices(InferenceService(calls, drain_call, token), OipService(calls))
    async with AsyncExitStack() as opened:
        store, batches = None, None
        if config.batches is not None:
            store = Store(config.batches.directory)
            opened.push_async_callback(store.close)
            batches = BatchEndpoints(store, callers, readiness, wall_clock, config.batches.largest_file)
        shares_port = config.admin_port is None
        acts = ProcessCalls(readiness, metrics, token, config.telemetry.profile_dir, wall_clock)
        shared = [*admin_calls.routes(), *acts.routes()] if shares_port else []
        gate = http_gate(allowed.gate, {"/health", "/ready", *PROBES, *(route.path for route in shared)})
        app = application(endpoints, [*batch_routes(batches), *oip_routes(calls), *shared], [gate])
        app.on_response_prepare.append(tell_cached)
        app.on_response_prepare.append(in_header(metrics))
        connections = HttpConnections()
        connections.follow(app)
        http, http_port = await start_http_server(app, config.host, config.http_port, allowed.http_tls)
        opened.push_async_callback(http.cleanup)
        admin, admin_port = None, http_port
        if config.admin_port is not None:
            own = [*admin_calls.routes(), *acts.routes(), admin_calls.completions(endpoints.completions)]
            admin, admin_port = await start_http_server(
                admin_application(endpoints, own), config.host, config.admin_port
            )
            opened.push_async_callback(admin.cleanup)
        grpc = await start_grpc_server(
            services,
            config.host,
            config.grpc_port,
            config.max_connection_age,
            interceptors=[GrpcGate(allowed.gate, metrics)],
            tls=allowed.grpc_tls,
        )
        acts.says_health = grpc
        watching = (
            asyncio.create_task(keep_watching(allowed.watched), name="watched files") if allowed.watched else None
        )
        opened.pop_all()
    caches = Caches(config.caches, metrics, time.monotonic)
    return Doors(
        readiness,
        arrivals,
        grpc,
        grpc.port,
        http,
        http_port,
        connections,
        admin,
        admin_port,
        drain_call,
        store,
        watching,
        caches,
    )
