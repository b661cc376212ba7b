"""inference.GRPCInferenceService: the Open Inference Protocol over gRPC."""

import struct
from collections.abc import Iterator

from headrace_server.embedding import Embedded
from headrace_server.errors import InvalidRequest
from headrace_server.rpc import oip
from headrace_server.rpc.calls import Calls, Context
from headrace_server.rpc.convert import float32
from headrace_server.rpc.pb import oip_pb2 as pb
from headrace_server.rpc.pb import oip_pb2_grpc
from headrace_server.rpc.readiness import Phase

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
LENGTH = struct.Struct("<I")  # before each element of a raw BYTES tensor


class OipService(oip_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._ready)

    async def ModelReady(self, message: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        async with self._calls.refusing(context):
            oip.check_model(self._calls.served.name, message.name, message.version)
            return pb.ModelReadyResponse(ready=self._ready)

    async def ServerMetadata(  # noqa: N802
        self, _: pb.ServerMetadataRequest, __: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=oip.SERVER, version=oip.SERVER_VERSION)

    async def ModelMetadata(  # noqa: N802
        self, message: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async with self._calls.refusing(context):
            oip.check_model(self._calls.served.name, message.name, message.version)
            facts = oip.model_facts(self._calls.readiness)
            return pb.ModelMetadataResponse(
                name=message.name,
                versions=[oip.MODEL_VERSION],
                platform=facts.platform,
                inputs=map(_described, facts.inputs),
                outputs=map(_described, facts.outputs),
            )

    async def ModelInfer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        async with self._calls.one(context):
            oip.check_model(self._calls.served.name, message.model_name, message.model_version)
            embedder = self._calls.readiness.embedder()
            tensors = [oip.Tensor(each.name, each.datatype, tuple(each.shape)) for each in message.inputs]
            parameters = {name: _value(name, each) for name, each in message.parameters.items()}
            ask = oip.embed_ask(tensors, _texts(message), parameters, [each.name for each in message.outputs])
            return _response(message, await embedder.embed(self._calls.complete(ask, context)))

    @property
    def _ready(self) -> bool:
        return self._calls.readiness.phase is Phase.READY


def _described(tensor: oip.Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _value(name: str, parameter: pb.InferParameter) -> bool | int | str | float:
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest("parameters", f"{name!r} has no value; set one of bool, int64, string, double, uint64")
    value: bool | int | str | float = getattr(parameter, kind)
    return value


def _texts(message: pb.ModelInferRequest) -> list[str]:
    raw = message.raw_input_contents
    if not message.inputs or not raw:
        return [_text(place, each) for tensor in message.inputs for place, each in enumerate(_typed(tensor))]
    if len(raw) != len(message.inputs) or any(each.HasField("contents") for each in message.inputs):
        raise InvalidRequest("raw_input_contents", "needs one entry for each input, and inputs without `contents`")
    return [_text(place, each) for data in raw for place, each in enumerate(_elements(data))]


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Iterator[bytes]:
    if others := [field.name for field, _ in tensor.contents.ListFields() if field.name != "bytes_contents"]:
        raise InvalidRequest("inputs", f"has {others[0]}; texts are bytes_contents")
    return iter(tensor.contents.bytes_contents)


def _elements(raw: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        if place + LENGTH.size > len(raw):
            raise InvalidRequest("raw_input_contents", f"ends inside the length of an element, at byte {place}")
        (length,) = LENGTH.unpack_from(raw, place)
        place += LENGTH.size
        if place + length > len(raw):
            raise InvalidRequest("raw_input_contents", f"holds {len(raw) - place} bytes of an element of {length}")
        yield raw[place : place + length]
        place += length


def _text(place: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as broken:
        raise InvalidRequest(
            "inputs", f"element {place} is not UTF-8: {broken.reason} at byte {broken.start}"
        ) from None


def _response(message: pb.ModelInferRequest, found: Embedded) -> pb.ModelInferResponse:
    """Raw when the request was, because such a client can read it, and typed otherwise."""
    output = pb.ModelInferResponse.InferOutputTensor(name=oip.OUTPUT, datatype=oip.FLOAT, shape=found.vectors.shape)
    response = pb.ModelInferResponse(
        model_name=message.model_name, model_version=oip.MODEL_VERSION, id=message.id, outputs=[output]
    )
    if message.raw_input_contents:
        response.raw_output_contents.append(float32(found.vectors))
    else:
        response.outputs[0].contents.fp32_contents.extend(found.vectors.ravel())
    return response
