"""`headrace load`: an open-loop load, as users make it: they do not wait for each other's answers.

Requests are due at the times of a seeded Poisson process or of a trace, whatever the server does. Nothing is retried.
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
from itertools import pairwise
from pathlib import Path

from headrace_server.client.connection import PLAIN, Connection, add_connection_options, connection_from
from headrace_server.client.live import Live
from headrace_server.client.plot import KINDS, save_plot
from headrace_server.client.prompts import BUILT_IN, draw_prompt
from headrace_server.client.summary import LoadSummary, Outcome, Slo
from headrace_server.client.targets import GrpcTarget, HttpTarget, Job, Reception, RequestFailed, Target
from headrace_server.client.traces import Arrival, UnusableTrace, prompt_of, read_trace
from headrace_server.machine import machine


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Everything that decides what is sent; equal plans send equal requests at equal times."""

    rate: float = 0.0  # requests per second, on average; or
    trace: tuple[Arrival, ...] = ()  # when they come
    speed: float = 1.0  # of the trace; 2 plays an hour in half an hour
    length_scale: float = 1.0  # of the trace's prompts and answers
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
    slo: Slo | None = None  # None: no goodput


async def run_load(
    plan: LoadPlan,
    on_result: Callable[[Outcome], None] = lambda _: None,
    connection: Connection = PLAIN,
    target: Target | None = None,
) -> LoadSummary:
    """Sends the plan and waits for every answer; `on_result` hears of each one as it ends. Cancelling hangs up.

    `target`: who is asked, and closed at the end; None: whom the plan names.
    """
    target = target or _target(plan, connection)
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
    return LoadSummary(time.monotonic() - start, tuple(outcomes), plan.slo)


def _target(plan: LoadPlan, connection: Connection) -> GrpcTarget | HttpTarget:
    if plan.http:
        return HttpTarget(plan.http, plan.fresh_connections, plan.timeout, connection)
    return GrpcTarget(plan.target, plan.channels, plan.fresh_connections, plan.timeout, connection)


async def _outcome(target: Target, job: Job, start: float, due: float) -> Outcome:
    reception = Reception(clock=time.monotonic)
    failure, again = None, None
    try:
        await target.send(job, reception)
    except RequestFailed as failed:
        failure, again = str(failed), failed.again
    times = reception.token_times
    return Outcome(
        due=due,
        duration=time.monotonic() - start - due,
        ttft=times[0] - start - due if times else None,
        queue_wait=reception.queue_wait,
        prompt_tokens=reception.prompt_tokens,
        generated_tokens=reception.generated_tokens,
        failure=failure,
        gaps=tuple(later - earlier for earlier, later in pairwise(times)),
        again=again,
    )


def _arrivals(plan: LoadPlan) -> Iterator[tuple[float, Job]]:
    """Seconds since the start, and what is due then."""
    dice = random.Random(plan.seed)
    words = plan.text.split()
    if plan.trace:
        yield from _replayed(plan, words, dice)
        return
    due = 0.0
    count = 0
    while not _is_over(plan, due, count):
        prompt = draw_prompt(words, dice.randint(*plan.prompt_words), dice)
        yield due, Job(prompt, dice.randint(*plan.max_new_tokens), plan.temperature, plan.ignore_eos)
        due += dice.expovariate(plan.rate)
        count += 1


def _replayed(plan: LoadPlan, words: list[str], dice: random.Random) -> Iterator[tuple[float, Job]]:
    for count, arrival in enumerate(plan.trace):
        due = arrival.due / plan.speed
        if _is_over(plan, due, count):
            return
        new_tokens = max(1, round(arrival.new_tokens * plan.length_scale))
        prompt = prompt_of(arrival, words, plan.length_scale, dice)
        yield due, Job(prompt, new_tokens, plan.temperature, plan.ignore_eos)


def _is_over(plan: LoadPlan, due: float, count: int) -> bool:
    if plan.requests is not None:
        return count >= plan.requests
    return plan.duration is not None and due >= plan.duration


def register(parser: argparse.ArgumentParser) -> None:
    """Send an open-loop load and summarise what came back."""
    add = parser.add_argument
    add_connection_options(parser)
    arrivals = parser.add_mutually_exclusive_group(required=True)
    arrivals.add_argument("--rate", type=_positive, help="requests per second, Poisson")
    arrivals.add_argument("--trace", type=Path, metavar="FILE", help="real arrivals: Azure's CSV or Mooncake's JSONL")
    add("--speed", type=_positive, default=1.0, help="of the trace; 2 plays an hour in half an hour")
    add("--length-scale", type=_positive, default=1.0, help="of the trace's prompts and answers")
    add("--duration", type=_positive, help="seconds in which requests are due")
    add("--requests", type=int, help="how many requests")
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
    add("--slo", type=_slo, metavar="ttft=S,itl=S,e2e=S", help="seconds; what is answered within counts as goodput")
    add("--plot", type=_plot, metavar="FILE", help="draw the waits, as .png or .html")
    add("--json", metavar="FILE", help="write the summary there as JSON; - is standard output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 when a request failed, 2 when the load makes no sense."""
    live = Live(time.monotonic)
    try:
        plan, connection = _plan(options), connection_from(options)
        if options.plot is not None:
            import matplotlib  # noqa: F401, PLC0415 - said before the load, not after it
        summary = asyncio.run(run_load(plan, live.heard, connection))
    except (UnusableTrace, UnusablePlan) as unusable:
        sys.stderr.write(f"headrace: {unusable}\n")
        return 2
    except ImportError:
        sys.stderr.write("headrace: --plot: needs matplotlib; install it beside headrace, or leave --plot out\n")
        return 2
    live.close()
    _tell(options, plan, summary)
    return 1 if summary.failures else 0


def _tell(options: argparse.Namespace, plan: LoadPlan, summary: LoadSummary) -> None:
    row = summary.row("load")
    if options.plot is not None:
        save_plot(summary, options.plot)
    if options.json:
        left_out = {"text": None, "trace": None if options.trace is None else options.trace.name}
        work = dataclasses.asdict(dataclasses.replace(plan, trace=())) | left_out
        work = {name: value for name, value in work.items() if value is not None}
        _write(options.json, json.dumps({"machine": machine(), "work": work, "rows": [row]}, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<30} {value}\n" for name, value in row.items()))


class UnusablePlan(Exception):
    """Names the option and the remedy."""


def _plan(options: argparse.Namespace) -> LoadPlan:
    """Raises UnusableTrace, UnusablePlan."""
    if options.duration is not None and options.requests is not None:
        raise UnusablePlan("--duration and --requests: give one of them")
    if options.trace is None and options.duration is None and options.requests is None:
        raise UnusablePlan("--rate: one of --duration --requests is required to end it")
    kept = {"text", "trace", "rate"}
    given = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(LoadPlan) if field.name not in kept
    }
    return LoadPlan(
        **given,
        rate=options.rate or 0.0,
        trace=() if options.trace is None else read_trace(options.trace),
        text=BUILT_IN if options.prompts is None else options.prompts.read_text(),
    )


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


def _slo(word: str) -> Slo:
    try:
        limits = {name: _positive(value) for name, _, value in (part.partition("=") for part in word.split(","))}
        return Slo(**limits)
    except (TypeError, ValueError) as strange:
        raise argparse.ArgumentTypeError(f"is {word}; must be seconds, such as ttft=0.5,itl=0.05,e2e=10") from strange


def _plot(word: str) -> Path:
    path = Path(word)
    if path.suffix not in KINDS:
        raise argparse.ArgumentTypeError(f"is {word}; must end in {' or '.join(KINDS)}")
    return path


def _range(word: str) -> tuple[int, int]:
    least, _, most = word.partition(":")
    low, high = int(least), int(most or least)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"is {word}; must be A:B with 1 <= A <= B")
    return low, high
