"""Reflection as grpc.reflection.v1, which clients ask for first, and as v1alpha, which older ones know.

grpcio-reflection has v1alpha only. The two differ in the package's name alone, so one servicer answers both.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

ALPHA, FINAL = "grpc.reflection.v1alpha", "grpc.reflection.v1"
FINAL_SERVICE = f"{FINAL}.ServerReflection"
FINAL_FILE = "grpc/reflection/v1/reflection.proto"


def serve_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """`services`: full names, besides reflection's own."""
    _describe_final()
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME, FINAL_SERVICE))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(FINAL_SERVICE, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handlers,))


def _describe_final() -> None:
    """So that a client that describes every listed service finds this one, too."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(FINAL_FILE)
    except KeyError:
        raw = reflection_pb2.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        file.name, file.package = FINAL_FILE, FINAL
        for message in file.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = _final(field.type_name)
        for method in file.service[0].method:
            method.input_type, method.output_type = _final(method.input_type), _final(method.output_type)
        pool.Add(file)


def _final(type_name: str) -> str:
    return type_name.replace(f".{ALPHA}.", f".{FINAL}.")
