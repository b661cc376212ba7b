"""The gRPC door: headrace.v1.Inference. Handlers write replies with `context.write` and never yield: gRPC leaves a
cancelled handler's generator to the garbage collector, but cancels a coroutine where it waits, and leaving its blocks
frees what the request held."""

from collections.abc import AsyncIterator

from headrace_server.config import Task
from headrace_server.errors import InvalidRequest, PermissionDenied
from headrace_server.request import Priority
from headrace_server.rpc.admin import AdminToken
from headrace_server.rpc.calls import Calls, Context
from headrace_server.rpc.convert import (
    POOLING,
    PRIORITY,
    RANKING,
    ask_from,
    chat_from,
    match_from,
    ranked_reply_to,
    reply_to,
)
from headrace_server.rpc.drain_call import DrainCall
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.ranking import judged
from headrace_server.rpc.readiness import Phase
from headrace_server.rpc.several import EmbedStream, embedded, generate_all
from headrace_server.telemetry.values import value_of

WIRE_PRIORITY = {ours: wire for wire, ours in PRIORITY.items()}  # the last one of a class: never UNSPECIFIED


class InferenceService(inference_pb2_grpc.InferenceServicer):
    def __init__(self, calls: Calls, drain: DrainCall, token: AdminToken) -> None:
        self._calls = calls
        self._drain = drain
        self._token = token

    async def Generate(self, message: pb.GenerateRequest, context: Context) -> None:  # noqa: N802 - the name on the wire
        async with self._calls.one(context):
            ask = self._calls.complete(ask_from(message), context)
            async with self._calls.readiness.answers().open(ask) as pieces:
                async for piece in pieces:
                    await context.write(reply_to(piece))

    async def GenerateBatch(  # noqa: N802
        self, message: pb.GenerateBatchRequest, context: Context
    ) -> pb.GenerateBatchReply:
        async with self._calls.one(context):
            return await generate_all(self._calls, message, context)

    async def Embed(self, message: pb.EmbedRequest, context: Context) -> pb.EmbedReply:  # noqa: N802
        async with self._calls.one(context):
            return await embedded(self._calls, message, context)

    async def EmbedStream(  # noqa: N802
        self, messages: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> None:
        # Not `one`: a stream may stand open for days. Each of its requests is counted.
        async with self._calls.refusing(context):
            await EmbedStream(self._calls, context).run(messages)

    async def Rerank(self, message: pb.RerankRequest, context: Context) -> pb.RerankReply:  # noqa: N802
        async with self._calls.one(context):
            match, top = match_from(message)
            ranker = self._calls.readiness.ranker()
            found = await judged(ranker, match, lambda ask: self._calls.complete(ask, context))
            return ranked_reply_to(found, top)

    async def Tokenize(self, message: pb.TokenizeRequest, context: Context) -> pb.TokenizeReply:  # noqa: N802
        async with self._calls.one(context):
            self._calls.check_caller(context)
            known = self._calls.readiness.tokens()
            if message.WhichOneof("prompt") is None:
                raise InvalidRequest("prompt", "is missing; set `text` or `chat`")
            prompt = chat_from(message.chat) if message.HasField("chat") else message.text
            found = pb.TokenIds(ids=await known.tokenise(prompt))
            return pb.TokenizeReply(tokens=found, max_context=known.max_tokens)

    async def Detokenize(self, message: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeReply:  # noqa: N802
        async with self._calls.one(context):
            self._calls.check_caller(context)
            known = self._calls.readiness.tokens()
            return pb.DetokenizeReply(text=await known.detokenise(tuple(message.tokens.ids)))

    async def ModelInfo(self, _: pb.ModelInfoRequest, context: Context) -> pb.ModelInfoReply:  # noqa: N802
        async with self._calls.refusing(context):
            return self._model_info()

    async def Load(self, _: pb.LoadRequest, context: Context) -> pb.LoadReply:  # noqa: N802
        async with self._calls.refusing(context):
            return self._load()

    async def Drain(self, _: pb.DrainRequest, context: Context) -> pb.DrainReply:  # noqa: N802
        async with self._calls.refusing(context):
            said = dict(context.invocation_metadata() or ()).get("authorization", "")
            if not isinstance(said, str) or not self._token.is_in(said):
                raise PermissionDenied("Drain needs `authorization: Bearer POD_UID` with the UID of this pod")
            return pb.DrainReply(inside=self._drain.ask("a Drain call"))

    def _model_info(self) -> pb.ModelInfoReply:
        served, readiness = self._calls.served, self._calls.readiness
        reply = pb.ModelInfoReply(name=served.name, device=served.device, dtype=served.dtype)
        if readiness.task in {None, Task.GENERATE}:
            limits = readiness.answers().limits
            reply.task, reply.max_context, reply.vocab_size = pb.TASK_GENERATE, limits.max_context, limits.vocab_size
            reply.eos_token_ids.extend(limits.eos_token_ids)
            reply.adapters.extend(limits.adapters)
            return reply
        facts = readiness.ranker().facts
        reply.max_context, reply.ranking = facts.max_tokens, RANKING[facts.judges]
        if readiness.task is Task.RERANK:
            reply.task = pb.TASK_RERANK
        else:
            reply.task, reply.dimensions = pb.TASK_EMBED, facts.dimensions
            reply.pooling, reply.normalises = POOLING[facts.pooling], facts.normalises
        return reply

    def _load(self) -> pb.LoadReply:
        """What a scrape of the metrics would say now."""
        metrics = self._calls.metrics
        predicted = {each: value_of(metrics.predicted_wait_seconds, **{"class": each}) for each in Priority}
        return pb.LoadReply(
            waiting=int(value_of(metrics.requests_waiting) or 0),
            running=int(value_of(metrics.requests_running) or 0),
            max_running=int(value_of(metrics.max_running) or 0),
            kv_pressure=value_of(metrics.kv_pressure) or 0.0,
            predicted_waits=[
                pb.PredictedWait(priority=WIRE_PRIORITY[each], seconds=seconds)
                for each, seconds in predicted.items()
                if seconds is not None and seconds == seconds  # noqa: PLR0124 - NaN: nothing has left the queue yet
            ],
            inside=self._calls.arrivals.inside,
            ready=self._calls.readiness.phase is Phase.READY,
        )
