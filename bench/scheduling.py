"""More work than one server can do: who waits how long, who is refused and how, and what offline work gets.

    python bench/scheduling.py --json -

A real server process on the CPU, asked over gRPC. First its capacity is measured. Then online work comes at half of it,
and at five times as much, in turns alone and with offline work beside it: equal arrivals for both sides of a turn, so
that the medians over the turns tell what offline work costs, and their spread what the machine does. At last one tenant
asks for five times the capacity beside the seldom requests of another. docs/scheduling.md says what is promised.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.rpc.pb import inference_pb2 as pb
from overload.callers import Asked, Callers, Size
from overload.shares import WINDOW, Samples
from served_process import ServedProcess, serve_command, served

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
MAX_WAIT, RESERVE, PLACES = 4.0, 0.1, 8  # seconds, share, sequences
TIMES = (0.5, 5.0)  # the capacity: a server with room, and one that online work saturates
FLOOD = 5.0  # the capacity, from one tenant
SIZE = Size(prompt=(16, 64), answer=(32, 64))
OFFLINE_AT_ONCE = 24  # offline requests that wait or run: always more than their reserve can take
SETTLING = 5.0  # seconds of each load that are not counted: the queue fills, its rate is learned
SELDOM = 1.0  # seconds between two requests of the tenant that the flood should not starve
FLAGS = (f"--max-wait={MAX_WAIT}", f"--offline-reserve={RESERVE}", f"--max-running={PLACES}", "--trust-tenant-header")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load (default %(default)s)")
    add_json(parser)
    parser.add_argument("--turns", type=int, default=3, help="of each load, alone and beside offline work")
    parser.add_argument("--times", type=float, nargs="*", default=TIMES, help="the capacity (default %(default)s)")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error(f"argument --turns: is {options.turns}; must be at least 1")
    if options.seconds < SETTLING + WINDOW + 2:
        parser.error(f"argument --seconds: is {options.seconds}; must hold {WINDOW} s after {SETTLING} s")
    work, rows = asyncio.run(measured(options))
    report(options.json, work, rows, python=sys.version)


async def measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The work, and the rows."""
    model, seconds = options.model, options.seconds
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        async with served(serve_command(model, *FLAGS), Path(directory)) as server:  # noqa: SIM117 - in this order
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                callers = Callers(channel, SIZE, random.Random(1))
                capacity = await capacity_of(callers)
                for times in options.times:
                    rows += await Load(server, callers, times * capacity, seconds).compared(times, options.turns)
                rows.append(
                    await Load(server, callers, FLOOD * capacity, seconds).run("one tenant floods", seldom=SELDOM)
                )
    work = {
        "model": model.name, "prompt_tokens": SIZE.prompt, "answer_tokens": SIZE.answer, "places": PLACES,
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
class Load:
    server: ServedProcess
    callers: Callers
    rate: float  # online requests per second
    seconds: float

    async def compared(self, times: float, turns: int) -> list[dict[str, Any]]:
        """A row for each run, and at last one with both sides."""
        alone, beside = f"{times:g} x, online", f"{times:g} x, online and offline"
        rows = []
        for turn in range(turns):
            sides = [(alone, 0), (beside, OFFLINE_AT_ONCE)]
            for name, offline in sides if turn % 2 == 0 else reversed(sides):
                rows.append(await self.run(name, offline, seed=turn))
        p99 = {side: [row["all"]["ttft_p99_ms"] for row in rows if row["name"] == side] for side in (alone, beside)}
        without, with_offline = (statistics.median(each) for each in p99.values())
        return [
            *rows,
            {
                "name": f"{times:g} x, both sides", "ttft_p99_ms_alone": p99[alone], "ttft_p99_ms_beside": p99[beside],
                "ttft_p99_medians_ms": [without, with_offline], "offline_costs": round(with_offline / without - 1, 3),
            },
        ]  # fmt: skip

    async def run(self, name: str, offline: int = 0, seldom: float = 0.0, seed: int = 0) -> dict[str, Any]:
        """`offline` requests at once; `seldom`: seconds between the requests of another tenant, 0 = it has none; of
        equal `seed` online requests come at equal times."""
        samples, callers, seconds = Samples(self.server.http), self.callers, self.seconds
        async with asyncio.TaskGroup() as group:
            online = group.create_task(callers.open(self.rate, seconds, "flood" if seldom else "", seed))
            batch = group.create_task(callers.closed(offline, seconds, pb.PRIORITY_BATCH))
            rare = group.create_task(callers.every(seldom, seconds, "seldom") if seldom else callers.nobody())
            group.create_task(samples.take(seconds))
        row = {"name": name, "asked_per_second": round(self.rate, 1), "resident_mib": samples.resident_mib}
        asked = {"all": online.result(), "seldom": rare.result(), **by_class(online.result())}
        row |= {who: summary(settled(ones)) for who, ones in asked.items() if ones}
        if offline:
            shares = samples.offline_shares(SETTLING, seconds)
            row |= {"offline_share_10s": [round(share, 4) for share in (min(shares), max(shares))]}
            row |= {"offline_answered": sum(one.answered for one in batch.result())}
        return row


def by_class(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    interactive = [one for one in asked if one.priority == pb.PRIORITY_INTERACTIVE]
    return {"interactive": interactive, "standard": [one for one in asked if one.priority == pb.PRIORITY_STANDARD]}


def settled(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if one.since_begin > SETTLING]


def summary(asked: Sequence[Asked]) -> dict[str, Any]:
    waits = [one.queue_wait for one in asked if one.queue_wait is not None]
    times = [one.ttft for one in asked if one.ttft is not None]
    refused = [one for one in asked if one.code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    strange = sorted({str(one.code) for one in asked if not one.answered and one not in refused})
    return {
        "answered": len(waits), "refused": len(refused),
        "refused_with_pushback": sum(one.pushback is not None for one in refused), "other_ends": strange,
        "wait_p50_ms": milliseconds(waits, 50), "wait_p99_ms": milliseconds(waits, 99),
        "wait_longest_ms": milliseconds(waits, 100),
        "ttft_p50_ms": milliseconds(times, 50), "ttft_p99_ms": milliseconds(times, 99),
    }  # fmt: skip


if __name__ == "__main__":
    main()
