"""The gRPC server around the service: port, health, reflection, and the options that keep streams alive."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headrace_server.rpc import oip_grpc
from headrace_server.rpc.pb import inference_pb2, inference_pb2_grpc, oip_pb2_grpc
from headrace_server.rpc.reflection import serve_reflection
from headrace_server.rpc.undecodable import RefuseUndecodable

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
SERVICES = (SERVICE, oip_grpc.SERVICE)
HEALTH_NAMES = ("", *SERVICES)  # the process, and each service
LARGEST_MESSAGE = 4 * 2**20  # bytes; a request that is larger has no place in any context
LARGEST_METADATA = 16 * 2**10  # bytes of all a call's metadata; an API key and trace headers take one of them
ASK_SILENT_CLIENTS = 30.0  # seconds: a client that vanished without a word holds pages for twice as long at most


@dataclass(frozen=True, slots=True)
class GrpcServices:
    inference: inference_pb2_grpc.InferenceServicer
    oip: oip_pb2_grpc.GRPCInferenceServiceServicer


def options(max_connection_age: float, keepalive: float = ASK_SILENT_CLIENTS) -> Sequence[tuple[str, int]]:
    """Both in seconds."""
    ping = int(keepalive * 1000)
    return (
        # A client balances connections, not requests: without an age a new replica would get none of the old ones.
        # No grace is set, so a stream that outlives its connection's age still ends by itself.
        ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        # A long prefill sends nothing for a while; gRPC's defaults take a client's keepalive pings then for an
        # attack and close the connection under every stream on it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", ping),
        ("grpc.keepalive_timeout_ms", ping),
        ("grpc.http2.ping_timeout_ms", ping),  # 60 s otherwise, whatever keepalive_timeout_ms says
        ("grpc.http2.max_pings_without_data", 0),  # no bound: a prefill may take longer than two pings
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ("grpc.max_metadata_size", LARGEST_METADATA),
        ("grpc.absolute_max_metadata_size", LARGEST_METADATA),  # between the two gRPC would refuse by chance
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share its requests
    )


@dataclass(frozen=True, slots=True)
class GrpcServer:
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    port: int

    async def say_serving(self) -> None:
        for name in HEALTH_NAMES:
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def say_not_serving(self) -> None:
        """Until `say_serving`."""
        for name in HEALTH_NAMES:
            await self.health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def say_not_serving_any_more(self) -> None:
        await self.health.enter_graceful_shutdown()


async def start_grpc_server(
    services: GrpcServices,
    host: str,
    port: int,
    max_connection_age: float,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    tls: grpc.ServerCredentials | None = None,
    keepalive: float = ASK_SILENT_CLIENTS,
) -> GrpcServer:
    """Health says NOT_SERVING until told otherwise. Raises OSError when the port is taken."""
    server = grpc.aio.server(
        options=options(max_connection_age, keepalive), interceptors=(*interceptors, RefuseUndecodable())
    )
    inference_pb2_grpc.add_InferenceServicer_to_server(services.inference, server)
    oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(services.oip, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in HEALTH_NAMES:
        await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    serve_reflection((*SERVICES, health.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
    except RuntimeError as taken:
        raise OSError(f"gRPC cannot listen on {address}: {taken}") from taken
    await server.start()
    return GrpcServer(server, checks, bound)
