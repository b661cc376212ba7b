"""The gRPC door: headrace.v1.Inference."""

from dataclasses import dataclass

from grpc.aio import ServicerContext

from headrace_server.errors import ServerError
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.arrivals import Arrivals
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.callers import Callers
from headrace_server.rpc.convert import ask_from, reply_to
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.readiness import Readiness
from headrace_server.rpc.status import status_of, trailers

Context = ServicerContext[pb.GenerateRequest, pb.GenerateReply]


@dataclass(frozen=True, slots=True)
class Served:
    """What this process serves, as clients are told."""

    name: str
    device: str
    dtype: str


class InferenceService(inference_pb2_grpc.InferenceServicer):
    def __init__(
        self, served: Served, readiness: Readiness, metrics: ServerMetrics, arrivals: Arrivals, callers: Callers
    ) -> None:
        self._served = served
        self._readiness = readiness
        self._metrics = metrics
        self._arrivals = arrivals
        self._callers = callers

    async def Generate(self, message: pb.GenerateRequest, context: Context) -> None:  # noqa: N802 - the name on the wire
        # Written with `context.write`, not yielded: gRPC leaves a cancelled handler's generator to the garbage
        # collector, but cancels this coroutine where it waits, and leaving the block frees the request's pages.
        with self._arrivals.one():
            try:
                async with self._readiness.answers().open(self._ask(message, context)) as pieces:
                    async for piece in pieces:
                        await context.write(reply_to(piece))
            except ServerError as error:
                await self._abort(context, error)

    async def ModelInfo(  # noqa: N802 - the name on the wire
        self, message: pb.ModelInfoRequest, context: ServicerContext[pb.ModelInfoRequest, pb.ModelInfoReply]
    ) -> pb.ModelInfoReply:
        try:
            limits = self._readiness.answers().limits
        except ServerError as error:
            await context.abort(status_of(error).grpc, str(error))
        return pb.ModelInfoReply(
            name=self._served.name,
            device=self._served.device,
            dtype=self._served.dtype,
            max_context=limits.max_context,
            vocab_size=limits.vocab_size,
            eos_token_ids=limits.eos_token_ids,
        )

    def _ask(self, message: pb.GenerateRequest, context: Context) -> Ask:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return self._callers.complete(ask_from(message), metadata, context.time_remaining())

    async def _abort(self, context: Context, error: ServerError) -> None:
        status = status_of(error)
        if status.refusal is not None:
            self._metrics.requests_refused.labels(status.refusal).inc()
        await context.abort(status.grpc, str(error), trailing_metadata=trailers(error))
