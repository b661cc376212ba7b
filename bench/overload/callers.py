"""Those who ask: at a rate whatever happens, so many at once, or one every so often."""

import asyncio
import random
import time
from dataclasses import dataclass

import grpc
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

PUSHBACK = "grpc-retry-pushback-ms"
INTERACTIVE_OF = 2  # every second online request is interactive, the others standard


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens, least and most."""

    prompt: tuple[int, int]
    answer: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Asked:
    since_begin: float  # seconds from the beginning of the load to this request
    priority: pb.Priority
    code: grpc.StatusCode = grpc.StatusCode.OK
    pushback: float | None = None  # seconds
    queue_wait: float | None = None  # seconds, as the server says; None: not answered
    ttft: float | None = None  # seconds, as the caller sees it
    served_ttft: float | None = None  # seconds, from its arrival to its first token, as the server says

    @property
    def answered(self) -> bool:
        return self.queue_wait is not None


class Callers:
    def __init__(self, channel: grpc.aio.Channel, size: Size, dice: random.Random) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        self._size = size
        self._dice = dice
        self._number = 0

    async def open(self, rate: float, seconds: float, tenant: str, seed: int) -> list[Asked]:
        """A Poisson process, equal for equal seeds, of both online classes."""
        dice, begin, due = random.Random(seed), time.monotonic(), 0.0
        tasks = []
        async with asyncio.TaskGroup() as group:
            while (due := due + dice.expovariate(rate)) < seconds:
                await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
                interactive = len(tasks) % INTERACTIVE_OF == 0
                priority = pb.PRIORITY_INTERACTIVE if interactive else pb.PRIORITY_STANDARD
                tasks.append(group.create_task(self._ask(begin, priority, tenant, dice)))
        return [task.result() for task in tasks]

    async def closed(self, at_once: int, seconds: float, priority: pb.Priority) -> list[Asked]:
        """Each asks again when it was answered, and comes back when it is told to."""
        begin, asked = time.monotonic(), list[Asked]()

        async def again_and_again() -> None:
            while time.monotonic() < begin + seconds:
                asked.append(one := await self._ask(begin, priority))
                await asyncio.sleep(min(one.pushback or 0.0, max(0.0, begin + seconds - time.monotonic())))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(again_and_again())
        return asked

    async def nobody(self) -> list[Asked]:
        return []

    async def every(self, pause: float, seconds: float, tenant: str) -> list[Asked]:
        begin = time.monotonic()
        tasks = []
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < begin + seconds:
                tasks.append(group.create_task(self._ask(begin, pb.PRIORITY_STANDARD, tenant)))
                await asyncio.sleep(pause)
        return [task.result() for task in tasks]

    async def _ask(
        self, begin: float, priority: pb.Priority, tenant: str = "", dice: random.Random | None = None
    ) -> Asked:
        self._number += 1
        dice = dice or self._dice
        start, first = time.monotonic(), None
        length = dice.randint(*self._size.prompt) - 1
        prompt = [self._number % 500 + 1, *(dice.randint(1, 500) for _ in range(length))]
        message = pb.GenerateRequest(
            tokens=pb.TokenIds(ids=prompt),
            max_new_tokens=dice.randint(*self._size.answer),
            ignore_eos=True,
            priority=priority,
        )
        call = self._stub.Generate(message, metadata=(("x-headrace-tenant", tenant),) if tenant else ())
        usage = None
        try:
            async for reply in call:
                first = time.monotonic() if first is None and reply.token_ids else first
                usage = reply.usage if reply.HasField("usage") else usage
        except grpc.aio.AioRpcError as error:
            told = dict(error.trailing_metadata() or ()).get(PUSHBACK)
            return Asked(start - begin, priority, error.code(), None if told is None else int(told) / 1000)
        ttft = None if first is None else first - start
        if usage is None:
            return Asked(start - begin, priority, ttft=ttft)
        return Asked(
            start - begin, priority, queue_wait=usage.queue_wait_seconds, ttft=ttft, served_ttft=usage.ttft_seconds
        )
