"""More work than one server can do: who waits how long, who is refused and how, and what offline work gets.

    python bench/scheduling.py --json -

A real server process on the CPU, asked over gRPC. First its capacity is measured. Then online work comes at half of it,
and at five times as much, in turns alone and with offline work beside it: equal arrivals for both sides of a turn, and
the first side changes. `offline_costs` is how much longer the first token takes beside it (0.05 = 5 %), with the
interval in which turns drawn anew leave it 95 times of 100: as long as 0 is inside, nothing was seen. At last one
tenant asks for five times the capacity beside the seldom requests of another. docs/scheduling.md says what is promised.

The server has half of the cores to itself. `served_ttft` is the time to the first token by its own clock, `ttft` by the
caller's. Offline work is asked for from a process of its own, so that reading its answers does not delay the others'.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.rpc.pb import inference_pb2 as pb
from overload.apart import half_of_the_cores
from overload.callers import Asked, Callers, Size
from overload.costs import Turn, costs
from overload.elsewhere import asked_elsewhere
from overload.shares import Samples
from served_process import ServedProcess, serve_command, served

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
MAX_WAIT, RESERVE, PLACES = 4.0, 0.1, 8  # seconds, share, sequences
TIMES = (0.5, 5.0)  # the capacity: a server with room, and one that online work saturates
FLOOD = 5.0  # the capacity, from one tenant
SIZE = Size(prompt=(16, 64), answer=(32, 64))
OFFLINE_AT_ONCE = 24  # offline requests that wait or run: always more than their reserve can take
SETTLING = 5.0  # seconds of each load that are not counted: the queue fills, its rate is learned
CLOCKS = ("served_ttft", "ttft")  # of Asked: the server's, the caller's
SELDOM = 1.0  # seconds between two requests of the tenant that the flood should not starve
FLAGS = (f"--max-wait={MAX_WAIT}", f"--offline-reserve={RESERVE}", f"--max-running={PLACES}", "--trust-tenant-header")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each load (default %(default)s)")
    add_json(parser)
    parser.add_argument("--turns", type=int, default=3, help="of each load, alone and beside offline work")
    parser.add_argument("--times", type=float, nargs="*", default=TIMES, help="the capacity (default %(default)s)")
    parser.add_argument("--no-flood", dest="flood", action="store_false", help="leave out the tenant that floods")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error(f"argument --turns: is {options.turns}; must be at least 1")
    if options.seconds < SETTLING + 5:
        parser.error(f"argument --seconds: is {options.seconds}; must hold 5 s after {SETTLING} s")
    work, rows = asyncio.run(measured(options))
    report(options.json, work, rows, python=sys.version)


async def measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The work, and the rows."""
    model, seconds = options.model, options.seconds
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with half_of_the_cores() as cores:
            server = await stack.enter_async_context(served(serve_command(model, *FLAGS), directory))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc))
        callers = Callers(channel, SIZE, random.Random(1))
        capacity = await capacity_of(callers)
        print(f"capacity: {capacity:.1f} requests/s", file=sys.stderr)
        for times in options.times:
            rows += await Load(server, callers, times * capacity, seconds).compared(times, options.turns)
        if options.flood:
            flood = Load(server, callers, FLOOD * capacity, seconds)
            rows.append(row_of(await flood.run("one tenant floods", seldom=SELDOM)))
    work = {
        "model": model.name, "prompt_tokens": SIZE.prompt, "answer_tokens": SIZE.answer, "places": PLACES,
        "cores_of_the_server": cores,  # alone; 0: shared with the callers
        "capacity_requests_per_second": round(capacity, 1), "seconds": seconds,
        "times_capacity": options.times, "turns": options.turns,
        "max_wait_s": {"interactive": MAX_WAIT, "standard": 2 * MAX_WAIT}, "offline_reserve": RESERVE,
    }  # fmt: skip
    return work, rows


async def capacity_of(callers: Callers) -> float:
    """Requests per second that are answered while twice as many are there as can run."""
    for seconds in (3.0, 6.0):  # the first time to warm up
        answered = [one for one in await callers.closed(2 * PLACES, seconds, pb.PRIORITY_STANDARD) if one.answered]
    return len(answered) / seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """In one run."""

    name: str
    rate: float  # online requests per second
    asked: list[Asked]  # by online callers, or by the tenant that floods
    seldom: list[Asked]  # by the other tenant
    samples: Samples
    offline_answered: int | None  # None: nobody asked
    offline_shares: list[float]

    def seconds(self, clock: str) -> list[float]:
        """To the first token, of those who were answered."""
        return [getattr(one, clock) for one in settled(self.asked) if one.answered]


@dataclass(frozen=True, slots=True)
class Load:
    server: ServedProcess
    callers: Callers
    rate: float  # online requests per second
    seconds: float

    async def compared(self, times: float, turns: int) -> list[dict[str, Any]]:
        """A row for each run, and at last one with both sides."""
        alone, beside = f"{times:g} x, online", f"{times:g} x, online and offline"
        seen: dict[str, list[Seen]] = {alone: [], beside: []}
        rows = []
        for turn in range(turns):
            sides = [(alone, 0), (beside, OFFLINE_AT_ONCE)]
            for name, offline in sides if turn % 2 == 0 else reversed(sides):
                seen[name].append(run := await self.run(name, offline, seed=turn))
                rows.append(row_of(run))
        return [*rows, both_sides(f"{times:g} x, both sides", list(zip(seen[alone], seen[beside], strict=True)))]

    async def run(self, name: str, offline: int = 0, seldom: float = 0.0, seed: int = 0) -> Seen:
        """`offline` requests at once; `seldom`: seconds between the requests of another tenant, 0 = it has none; of
        equal `seed` online requests come at equal times."""
        samples, callers, seconds = Samples(self.server.http), self.callers, self.seconds
        async with asyncio.TaskGroup() as group:
            online = group.create_task(callers.open(self.rate, seconds, "flood" if seldom else "", seed))
            batch = group.create_task(asked_elsewhere(self.server.grpc, SIZE, offline, seconds) if offline else none())
            rare = group.create_task(callers.every(seldom, seconds, "seldom") if seldom else callers.nobody())
            group.create_task(samples.take(seconds))
        print(f"{name}, turn {seed + 1} is done", file=sys.stderr)
        shares = samples.offline_shares(SETTLING, seconds) if offline else []
        return Seen(name, self.rate, online.result(), rare.result(), samples, batch.result(), shares)


def both_sides(name: str, turns: Sequence[tuple[Seen, Seen]]) -> dict[str, Any]:
    """`turns`: alone, and beside offline work."""
    row: dict[str, Any] = {"name": name, "requests": sum(len(alone.seconds(CLOCKS[0])) for alone, _ in turns)}
    for clock in CLOCKS:
        paired = [Turn(alone.seconds(clock), beside.seconds(clock)) for alone, beside in turns]
        row |= {f"offline_costs_{clock}_p{percent}": costs(paired, percent) for percent in (50, 95, 99)}
    return row


async def none() -> None:
    """Nobody asks for offline work."""


def row_of(seen: Seen) -> dict[str, Any]:
    resident = seen.samples.resident_mib
    row: dict[str, Any] = {"name": seen.name, "asked_per_second": round(seen.rate, 1), "resident_mib": resident}
    row |= {"cores_busy": seen.samples.processor_share(SETTLING)}
    asked = {"all": seen.asked, "seldom": seen.seldom, **by_class(seen.asked)}
    row |= {who: summary(settled(ones)) for who, ones in asked.items() if ones}
    if shares := seen.offline_shares:
        row |= {"offline_share_10s": [round(share, 4) for share in (min(shares), max(shares))]}
    if seen.offline_answered is not None:
        row |= {"offline_answered": seen.offline_answered}
    return row


def by_class(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    interactive = [one for one in asked if one.priority == pb.PRIORITY_INTERACTIVE]
    return {"interactive": interactive, "standard": [one for one in asked if one.priority == pb.PRIORITY_STANDARD]}


def settled(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if one.since_begin > SETTLING]


def summary(asked: Sequence[Asked]) -> dict[str, Any]:
    waits = [one.queue_wait for one in asked if one.queue_wait is not None]
    times = [one.ttft for one in asked if one.ttft is not None]
    served_times = [one.served_ttft for one in asked if one.served_ttft is not None]
    refused = [one for one in asked if one.code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    strange = sorted({str(one.code) for one in asked if not one.answered and one not in refused})
    return {
        "answered": len(waits), "refused": len(refused),
        "refused_with_pushback": sum(one.pushback is not None for one in refused), "other_ends": strange,
        "wait_p50_ms": milliseconds(waits, 50), "wait_p99_ms": milliseconds(waits, 99),
        "wait_longest_ms": milliseconds(waits, 100),
        "served_ttft_p50_ms": milliseconds(served_times, 50), "served_ttft_p99_ms": milliseconds(served_times, 99),
        "ttft_p50_ms": milliseconds(times, 50), "ttft_p99_ms": milliseconds(times, 99),
    }  # fmt: skip


if __name__ == "__main__":
    main()
