"""Several requests in one gRPC call: what is refused loses none of the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from headrace_server.errors import Draining, EngineFailed, InvalidRequest, ServerError
from headrace_server.rpc.answers import Piece, joined
from headrace_server.rpc.calls import Calls, Context
from headrace_server.rpc.convert import ask_from, embed_ask_from, embed_reply_to, reply_to
from headrace_server.rpc.pb import inference_pb2 as pb

MOST_REQUESTS = 256  # of one GenerateBatch
AT_ONCE = 32  # requests of one EmbedStream between their first look and their reply; the proto says so


async def generate_all(calls: Calls, message: pb.GenerateBatchRequest, context: Context) -> pb.GenerateBatchReply:
    """Raises ServerError for what would refuse them all."""
    if not 1 <= len(message.requests) <= MOST_REQUESTS:
        raise InvalidRequest("requests", f"has {len(message.requests)} prompts; send 1 to {MOST_REQUESTS}")
    calls.check_caller(context)
    calls.readiness.answers()
    async with asyncio.TaskGroup() as group:  # a call that is cancelled cancels every task
        tasks = [group.create_task(_outcome(calls, request, context)) for request in message.requests]
    return pb.GenerateBatchReply(outcomes=[task.result() for task in tasks])


async def _outcome(calls: Calls, request: pb.GenerateRequest, context: Context) -> pb.GenerateOutcome:
    try:
        async with calls.readiness.answers().open(calls.complete(ask_from(request), context)) as pieces:
            return pb.GenerateOutcome(reply=reply_to(_whole([piece async for piece in pieces])))
    except ServerError as error:
        return pb.GenerateOutcome(refused=calls.refused(error))


def _whole(pieces: Sequence[Piece]) -> Piece:
    piece = joined(pieces)
    if piece.finish is None:
        raise AssertionError("the engine ended a stream without saying why. This is a bug.")
    return piece


@dataclass(frozen=True, slots=True)
class _Going:
    """One request of a stream."""

    outcome: "asyncio.Task[pb.EmbedStreamReply | ServerError]"
    inside: ExitStack  # closed with the last byte of its reply


class EmbedStream:
    """Reads ahead of what it has answered, but not far: AT_ONCE slots are the only queue."""

    def __init__(self, calls: Calls, context: Context) -> None:
        self._calls = calls
        self._context = context
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._going: asyncio.Queue[_Going | ServerError | None] = asyncio.Queue()  # None: there are no more

    async def run(self, requests: AsyncIterator[pb.EmbedStreamRequest]) -> None:
        """Until the client has sent all and heard of all. Raises the ServerError that makes going on useless."""
        self._calls.check_caller(self._context)
        self._calls.readiness.embedder()
        try:
            async with asyncio.TaskGroup() as group:  # a call that is cancelled cancels every task
                group.create_task(self._read(requests, group))
                group.create_task(self._write())
        except ExceptionGroup as several:
            raise several.exceptions[0] from None  # the first one cancelled the others
        finally:
            while not self._going.empty():
                if isinstance(one := self._going.get_nowait(), _Going):
                    one.inside.close()

    async def _read(self, requests: AsyncIterator[pb.EmbedStreamRequest], group: asyncio.TaskGroup) -> None:
        end: ServerError | None = None
        try:
            async for message in requests:
                await self._slots.acquire()
                inside = ExitStack()
                inside.enter_context(self._calls.arrivals.one())
                self._going.put_nowait(_Going(group.create_task(self._outcome(message)), inside))
        except InvalidRequest as undecodable:
            # Raised here it would cancel a write half way, and gRPC cannot end a call whose write is not done.
            end = undecodable
        self._going.put_nowait(end)

    async def _write(self) -> None:
        while isinstance(one := await self._going.get(), _Going):
            with one.inside:
                outcome = await one.outcome
                if isinstance(outcome, ServerError):
                    raise outcome
                await self._context.write(outcome)
            self._slots.release()
        if one is not None:
            raise one

    async def _outcome(self, message: pb.EmbedStreamRequest) -> pb.EmbedStreamReply | ServerError:
        """An error that ends the stream comes in its turn: what was asked before it is still answered."""
        try:
            return pb.EmbedStreamReply(id=message.id, reply=await embedded(self._calls, message.request, self._context))
        except (Draining, EngineFailed) as leaving:
            return leaving
        except ServerError as error:
            return pb.EmbedStreamReply(id=message.id, refused=self._calls.refused(error))


async def embedded(calls: Calls, request: pb.EmbedRequest, context: Context) -> pb.EmbedReply:
    """Raises ServerError."""
    ask = calls.complete(embed_ask_from(request), context)
    return embed_reply_to(await calls.readiness.embedder().embed(ask))
