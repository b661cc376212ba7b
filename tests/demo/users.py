"""The demo's load: users who ask again as soon as they are answered, so that the queue is as long as they are many.

A closed loop overloads a slow laptop and a fast workstation alike, and never grows without bound. Half of the users
keep one gRPC connection (the server's connection age moves them to new replicas), half speak HTTP with a connection per
request.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import grpc
from headrace_server.rpc.pb import inference_pb2, inference_pb2_grpc


@dataclass(slots=True)
class Answers:
    """What the users saw, as it happens."""

    sent: int = 0
    tokens: int = 0
    queue_waits: list[float] = field(default_factory=list)  # seconds, from the server's own timestamps
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the deployment's Service listens, and what it serves."""

    grpc: str  # host:port
    http: str  # base URL
    model: str


@dataclass(frozen=True, slots=True)
class Habit:
    """How each user behaves."""

    prompts: tuple[str, ...]
    max_new_tokens: int = 96
    pause: float = 0.0  # seconds between an answer and the next question


async def converse(doors: Doors, users: int, seconds: float, habit: Habit, answers: Answers) -> None:
    """Let `users` ask for `seconds`."""
    until = time.monotonic() + seconds
    await converse_until(doors, users, lambda: time.monotonic() >= until, habit, answers)


async def converse_until(doors: Doors, users: int, is_over: Callable[[], bool], habit: Habit, answers: Answers) -> None:
    """Let `users` ask until it is over: what a test waits for takes a slow machine longer."""
    async with asyncio.TaskGroup() as group:
        for number in range(users):
            ask = _over_grpc if number % 2 == 0 else _over_http
            group.create_task(ask(doors, _questions(habit, number, is_over), habit, answers))


@asynccontextmanager
async def conversing(doors: Doors, users: int, habit: Habit) -> AsyncIterator[Answers]:
    """`users` ask as long as it is open; the answers are whole once it is closed."""
    answers, over = Answers(), asyncio.Event()
    talking = asyncio.create_task(converse_until(doors, users, over.is_set, habit, answers))
    try:
        yield answers
    finally:
        over.set()
    await talking


async def converse_during(doors: Doors, users: int, steps: Callable[[], object], habit: Habit) -> Answers:
    """Let `users` ask until `steps`, which block, have been taken in a thread."""
    async with conversing(doors, users, habit) as answers:
        await asyncio.to_thread(steps)
    return answers


async def _questions(habit: Habit, seed: int, is_over: Callable[[], bool]) -> AsyncIterator[str]:
    """The same prompts in the same order for the same user."""
    source = random.Random(seed)
    while not is_over():
        yield source.choice(habit.prompts)
        await asyncio.sleep(habit.pause)


async def _over_grpc(doors: Doors, questions: AsyncIterator[str], habit: Habit, answers: Answers) -> None:
    async with grpc.aio.insecure_channel(doors.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        async for question in questions:
            request = inference_pb2.GenerateRequest(text=question, max_new_tokens=habit.max_new_tokens, ignore_eos=True)
            answers.sent += 1
            try:
                async for reply in stub.Generate(request, timeout=300):
                    answers.tokens += len(reply.token_ids)
                    if reply.finish_reason:
                        answers.queue_waits.append(reply.usage.queue_wait_seconds)
            except grpc.aio.AioRpcError as error:
                answers.failures[f"gRPC {error.code().name}: {error.details()}"] += 1


async def _over_http(doors: Doors, questions: AsyncIterator[str], habit: Habit, answers: Answers) -> None:
    async for question in questions:
        body = {"model": doors.model, "prompt": question, "max_tokens": habit.max_new_tokens, "temperature": 0.8}
        answers.sent += 1
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session,
                session.post(f"{doors.http}/v1/completions", json=body) as response,
            ):
                reply = await response.json()
                if response.status == 200:
                    answers.tokens += reply["usage"]["completion_tokens"]
                else:
                    answers.failures[f"HTTP {response.status}: {reply['error']['message']}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            answers.failures[f"HTTP {type(error).__name__}: {error}"] += 1
