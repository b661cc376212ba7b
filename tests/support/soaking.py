"""A real server whose callers hang up, half of them: what is left. And what SIGTERM does to a hundred streams."""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from served_process import NAME, ServedProcess

HANG_UP = 0.5  # share of the callers
PROMPT, ANSWER = (1, 64), (1, 64)  # tokens, least and most
LOOK = 0.5  # seconds between two looks at the memory
BUSY = {"headrace_requests_running", "headrace_requests_waiting", "headrace_requests_inside"}


@dataclass(frozen=True, slots=True)
class Soak:
    ends: dict[str, int]  # requests, by door and how they ended
    resident_mib: list[float]  # in the order of time
    pages_free: float
    pages_total: float

    @property
    def thirds_mib(self) -> tuple[float, float]:
        """Resident memory, medians of the first and the last third."""
        third = max(1, len(self.resident_mib) // 3)
        return statistics.median(self.resident_mib[:third]), statistics.median(self.resident_mib[-third:])


@dataclass
class Callers:
    server: ServedProcess
    stub: inference_pb2_grpc.InferenceStub
    session: aiohttp.ClientSession
    dice: random.Random
    ends: Counter[str] = field(default_factory=Counter)

    async def again_and_again(self, until: float) -> None:
        doors: dict[str, Callable[[int | None], Awaitable[None]]] = {
            "gRPC": self.over_grpc,
            "HTTP": lambda _: self.over_http(),
            "SSE": self.over_sse,
        }
        while time.monotonic() < until:
            name = self.dice.choice([*doors])
            leaves = self.dice.random() < HANG_UP
            # Before the first token as well as after some.
            most = self.dice.randint(0, ANSWER[1] // 2) if leaves else None
            task = asyncio.ensure_future(doors[name](most))
            if leaves and (name == "HTTP" or self.dice.random() < HANG_UP):
                await asyncio.wait([task], timeout=self.dice.uniform(0.0, 0.3))
                task.cancel()
            await asyncio.wait([task])
            self.ends[f"{name}, {ended(task, leaves)}"] += 1

    async def over_grpc(self, most: int | None) -> None:
        tokens = pb.TokenIds(ids=self._prompt())
        call = self.stub.Generate(pb.GenerateRequest(tokens=tokens, max_new_tokens=self._answer(), ignore_eos=True))
        got = 0
        async for _ in call:
            got += 1
            if most is not None and got > most:
                call.cancel()
                return

    async def over_http(self) -> None:
        async with self._post(stream=False) as response:
            await response.read()

    async def over_sse(self, most: int | None) -> None:
        got = 0
        async with self._post(stream=True) as response:
            async for _ in response.content:
                got += 1
                if most is not None and got > 2 * most:  # a line and an empty one
                    response.close()
                    return

    def _post(self, *, stream: bool) -> aiohttp.client._RequestContextManager:  # what aiohttp calls it
        body = {"model": NAME, "prompt": self._prompt(), "max_tokens": self._answer(), "stream": stream}
        body["ignore_eos"] = True
        return self.session.post(f"http://{self.server.http}/v1/completions", json=body, raise_for_status=True)

    def _prompt(self) -> list[int]:
        return [self.dice.randint(1, 500) for _ in range(self.dice.randint(*PROMPT))]

    def _answer(self) -> int:
        return self.dice.randint(*ANSWER)


def ended(task: "asyncio.Future[None]", leaves: bool) -> str:
    if task.cancelled():
        return "hung up"
    if (error := task.exception()) is None:
        return "hung up" if leaves else "answered"
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else getattr(error, "status", type(error).__name__)
    return str(code)


async def soak(server: ServedProcess, seconds: float, callers: int, seed: int = 1) -> Soak:
    memory: list[float] = []
    until = time.monotonic() + seconds
    async with (
        grpc.aio.insecure_channel(server.grpc) as channel,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        everybody = Callers(server, inference_pb2_grpc.InferenceStub(channel), session, random.Random(seed))
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(everybody.again_and_again(until))
            while time.monotonic() < until:
                memory.append(resident_mib(server.process.pid))
                await asyncio.sleep(LOOK)
        metrics = await idle(server, session)
    free, total = metrics["headrace_kv_pages_free"], metrics["headrace_kv_pages_total"]
    return Soak(dict(sorted(everybody.ends.items())), memory, free, total)


async def idle(server: ServedProcess, session: aiohttp.ClientSession) -> dict[str, float]:
    """Its metrics, once nobody is inside any more. Raises TimeoutError when somebody never leaves."""
    async with asyncio.timeout(120):
        while True:
            async with session.get(f"http://{server.admin}/metrics") as response:
                lines = [line.split() for line in (await response.text()).splitlines() if line[:1] not in "#"]
            found = {name: float(value) for name, value in lines if "{" not in name}
            if not any(found[name] for name in BUSY):
                return found
            await asyncio.sleep(0.1)


def resident_mib(process: int) -> float:
    """Linux only."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@dataclass(frozen=True, slots=True)
class Leaving:
    complete: int  # streams that brought every token after SIGTERM
    lost: dict[str, int]  # by their end
    newcomer: str  # code that a new call got while they ran
    exit_status: int
    seconds: float  # from SIGTERM to the end of the process


async def leave(server: ServedProcess, streams: int, tokens: int, closed_after: float) -> Leaving:
    """SIGTERM when all streams have begun, half of them gRPC, half SSE. `closed_after`: seconds until a new call is
    tried, and hence for which the streams have to last."""
    begun = [asyncio.Event() for _ in range(streams)]
    async with (
        grpc.aio.insecure_channel(server.grpc) as channel,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        doors = [_grpc_stream(stub, tokens, one) for one in begun[::2]]
        doors += [_sse_stream(session, server, tokens, one) for one in begun[1::2]]
        tasks = [asyncio.ensure_future(door) for door in doors]
        await asyncio.gather(*(one.wait() for one in begun))
        at = time.monotonic()
        server.terminate()
        await asyncio.sleep(closed_after)
        running = sum(not task.done() for task in tasks)
        newcomer = await _newcomer(server.grpc)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    status = await server.exit_status()
    lost = Counter(repr(end)[:200] for end in ends if end != tokens)
    if not running:
        raise ValueError(f"every stream had ended {closed_after} s after SIGTERM: ask for more than {tokens} tokens")
    return Leaving(sum(end == tokens for end in ends), dict(lost), newcomer, status, time.monotonic() - at)


async def _grpc_stream(stub: inference_pb2_grpc.InferenceStub, tokens: int, begun: asyncio.Event) -> int:
    got = 0
    async for reply in stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=tokens, ignore_eos=True)):
        got += len(reply.token_ids)
        begun.set()
    return got


async def _sse_stream(session: aiohttp.ClientSession, server: ServedProcess, tokens: int, begun: asyncio.Event) -> int:
    body = {
        "model": NAME, "prompt": "In", "max_tokens": tokens, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    usage = None
    async with session.post(f"http://{server.http}/v1/completions", json=body, raise_for_status=True) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                begun.set()
                usage = json.loads(line[6:]).get("usage") or usage
    return 0 if usage is None else int(usage["completion_tokens"])


async def _newcomer(address: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        try:
            async for _ in stub.Generate(pb.GenerateRequest(text="In", max_new_tokens=1)):
                pass
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "OK"
