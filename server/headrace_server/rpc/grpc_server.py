"""The gRPC server around the service: port, health, reflection, and the options that keep streams alive."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headrace_server.rpc.pb import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
HEALTH_NAMES = ("", SERVICE)  # the process, and the service
LARGEST_MESSAGE = 4 * 2**20  # bytes; a request that is larger has no place in any context


def options(max_connection_age: float) -> Sequence[tuple[str, int]]:
    return (
        # A client balances connections, not requests: without an age a new replica would get none of the old ones.
        # No grace is set, so a stream that outlives its connection's age still ends by itself.
        ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        # A long prefill sends nothing for a while; gRPC's defaults take a client's keepalive pings then for an
        # attack and close the connection under every stream on it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
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

    async def say_not_serving_any_more(self) -> None:
        await self.health.enter_graceful_shutdown()


async def start_grpc_server(
    service: inference_pb2_grpc.InferenceServicer,
    host: str,
    port: int,
    max_connection_age: float,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    tls: grpc.ServerCredentials | None = None,
) -> GrpcServer:
    """Health says NOT_SERVING until told otherwise. Raises OSError when the port is taken."""
    server = grpc.aio.server(options=options(max_connection_age), interceptors=interceptors)
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in HEALTH_NAMES:
        await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
    except RuntimeError as taken:
        raise OSError(f"gRPC cannot listen on {address}: {taken}") from taken
    await server.start()
    return GrpcServer(server, checks, bound)
