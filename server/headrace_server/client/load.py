"""`headrace load`: an open-loop load, as users make it: they do not wait for each other's answers.

Requests are due at the times of a seeded Poisson process, whatever the server does. Nothing is retried.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from headrace_server.client.prompts import BUILT_IN, draw_prompt
from headrace_server.client.summary import LoadSummary, Outcome, machine
from headrace_server.client.targets import GrpcTarget, HttpTarget, Job, Reception, RequestFailed, Target


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Everything that decides what is sent; equal plans send equal requests at equal times."""

    rate: float  # requests per second, on average
    target: str = ""  # gRPC HOST:PORT; or
    http: str = ""  # base URL of the OpenAI API
    duration: float | None = None  # seconds in which requests are due; or
    requests: int | None = None  # how many
    prompt_words: tuple[int, int] = (8, 32)  # least and most; a word is a token or two
    max_new_tokens: tuple[int, int] = (16, 64)
    temperature: float = 0.0
    ignore_eos: bool = False  # answers of exactly max_new_tokens
    text: str = BUILT_IN  # where the words come from
    seed: int = 0
    concurrency_limit: int | None = None  # requests open at once; later ones wait, and their wait is counted
    channels: int = 4  # gRPC connections
    fresh_connections: bool = False  # a new connection for each request, so that each one is balanced
    timeout: float = 120.0  # seconds a request may take


async def run_load(plan: LoadPlan, on_result: Callable[[Outcome], None] = lambda _: None) -> LoadSummary:
    """Sends the plan and waits for every answer; `on_result` hears of each one as it ends. Cancelling hangs up."""
    target = _target(plan)
    slots = nullcontext() if plan.concurrency_limit is None else asyncio.Semaphore(plan.concurrency_limit)
    outcomes: list[Outcome] = []
    start = time.monotonic()

    async def send(due: float, job: Job) -> None:
        async with slots:
            outcome = await _outcome(target, job, start, due)
        outcomes.append(outcome)
        on_result(outcome)

    try:
        async with asyncio.TaskGroup() as group:
            for due, job in _arrivals(plan):
                await asyncio.sleep(start + due - time.monotonic())
                group.create_task(send(due, job))
    finally:
        await target.close()
    return LoadSummary(time.monotonic() - start, tuple(outcomes))


def _target(plan: LoadPlan) -> GrpcTarget | HttpTarget:
    if plan.http:
        return HttpTarget(plan.http, plan.fresh_connections, plan.timeout)
    return GrpcTarget(plan.target, plan.channels, plan.fresh_connections, plan.timeout)


async def _outcome(target: Target, job: Job, start: float, due: float) -> Outcome:
    reception = Reception(clock=time.monotonic)
    failure = None
    try:
        await target.send(job, reception)
    except RequestFailed as failed:
        failure = str(failed)
    first = reception.first_token_at
    return Outcome(
        due=due,
        duration=time.monotonic() - start - due,
        ttft=None if first is None else first - start - due,
        queue_wait=reception.queue_wait,
        prompt_tokens=reception.prompt_tokens,
        generated_tokens=reception.generated_tokens,
        failure=failure,
    )


def _arrivals(plan: LoadPlan) -> Iterator[tuple[float, Job]]:
    """Seconds since the start, and what is due then."""
    dice = random.Random(plan.seed)
    words = plan.text.split()
    due = 0.0
    count = 0
    while not _is_over(plan, due, count):
        prompt = draw_prompt(words, dice.randint(*plan.prompt_words), dice)
        yield due, Job(prompt, dice.randint(*plan.max_new_tokens), plan.temperature, plan.ignore_eos)
        due += dice.expovariate(plan.rate)
        count += 1


def _is_over(plan: LoadPlan, due: float, count: int) -> bool:
    if plan.requests is not None:
        return count >= plan.requests
    return plan.duration is not None and due >= plan.duration


def register(parser: argparse.ArgumentParser) -> None:
    """Send an open-loop load and summarise what came back."""
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--target", default="", metavar="HOST:PORT", help="gRPC address")
    where.add_argument("--http", default="", metavar="URL", help="base URL of an OpenAI API, instead of gRPC")
    add("--rate", type=_positive, required=True, help="requests per second, Poisson")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--duration", type=_positive, help="seconds in which requests are due")
    length.add_argument("--requests", type=int, help="how many requests")
    add("--prompt-words", type=_range, default=(8, 32), metavar="A:B", help="default 8:32; a word is a token or two")
    add("--max-new-tokens", type=_range, default=(16, 64), metavar="A:B", help="default 16:64")
    add("--temperature", type=float, default=0.0)
    add("--ignore-eos", action="store_true", help="answers of exactly max-new-tokens")
    add("--prompts", type=Path, help="text file to take the words from")
    add("--seed", type=int, default=0)
    add("--concurrency-limit", type=int, help="requests open at once; later ones wait, and their wait is counted")
    add("--channels", type=int, default=4, help="gRPC connections (default %(default)s)")
    add("--fresh-connections", action="store_true", help="a new connection for each request")
    add("--timeout", type=_positive, default=120.0, help="seconds a request may take (default %(default)s)")
    add("--json", metavar="FILE", help="write the summary there as JSON; - is standard output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 when a request failed."""
    plan = _plan(options)
    summary = asyncio.run(run_load(plan))
    row = summary.row("load")
    if options.json:
        work = {name: value for name, value in dataclasses.asdict(plan).items() if name != "text"}
        _write(options.json, json.dumps({"machine": machine(), "work": work, "rows": [row]}, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<26} {value}\n" for name, value in row.items()))
    return 1 if row["requests_failed"] else 0


def _plan(options: argparse.Namespace) -> LoadPlan:
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(LoadPlan) if field.name != "text"}
    return LoadPlan(**given, text=BUILT_IN if options.prompts is None else options.prompts.read_text())


def _write(where: str, text: str) -> None:
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).write_text(text)


def _positive(word: str) -> float:
    value = float(word)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0")
    return value


def _range(word: str) -> tuple[int, int]:
    least, _, most = word.partition(":")
    low, high = int(least), int(most or least)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"is {word}; must be A:B with 1 <= A <= B")
    return low, high
