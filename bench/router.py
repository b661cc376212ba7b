"""What `headrace route` costs a request, and what it saves: direct calls and round robin beside it, in one run.

    python bench/router.py --json -

Costs: a stream to one replica directly and through the router, by turns. Savings: requests whose lengths differ a
hundredfold, the same arrivals once round robin and once through the router; what counts is the wait in a replica's
queue. docs/benchmarks.md says what each figure means.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import grpc
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from routing.replica import HOST, METHOD, Replica, asked, served

STREAM = 16  # tokens of a stream whose cost is measured
MEAN_TOKENS, SPREAD = 60.0, 1.2  # lengths: log-normal, of this mean and this sigma
TOKEN_SECONDS = 0.01
Call = Callable[[bytes], Awaitable[tuple[float, float]]]


def main() -> int:
    options = arguments()
    work, rows = asyncio.run(measured(options))
    report(options.json, work, rows)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--calls", type=int, default=400, help="for the costs, on each side")
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals, on each side")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--places", type=int, default=4, help="of each replica's batch")
    parser.add_argument("--load", type=float, default=0.8, help="share of what the replicas can carry")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def measured(options: argparse.Namespace) -> tuple[dict[str, object], list[dict[str, object]]]:
    costs = await costed(options.calls)
    spared = [await spread(options, side) for side in ("round robin", "router")]
    ratio = spared[1]["wait_p95_ms"] / spared[0]["wait_p95_ms"] if spared[0]["wait_p95_ms"] else 0.0
    spared[1]["wait_p95_of_round_robin"] = round(ratio, 3)
    work = {
        "stream_tokens": STREAM, "calls": options.calls, "replicas": options.replicas, "places": options.places,
        "load": options.load, "mean_tokens": MEAN_TOKENS, "sigma": SPREAD, "token_seconds": TOKEN_SECONDS,
        "seconds": options.seconds,
    }  # fmt: skip
    return work, [*costs, *spared]


async def costed(calls: int) -> list[dict[str, object]]:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(served(Replica(places=64, token_seconds=0)))
        router = await stack.enter_async_context(Router([replica]))
        sides = {"direct": f"{HOST}:{replica.grpc}", "router": router.address}
        call = {name: await caller(stack, address) for name, address in sides.items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(calls + 20):  # the first ones warm connections up
            for name in sides:
                seconds = await call[name](asked(STREAM, turn))
                if turn >= 20:
                    found[name].append(seconds)
    direct = found["direct"]
    return [cost(name, seconds, direct) for name, seconds in found.items()]


def cost(name: str, seconds: Sequence[tuple[float, float]], direct: Sequence[tuple[float, float]]) -> dict[str, object]:
    row: dict[str, object] = {"name": f"cost: {name}"}
    for place, what in enumerate(("first_token", "whole")):
        mine, theirs = [each[place] for each in seconds], [each[place] for each in direct]
        for percent in (50, 99):
            own, other = milliseconds(mine, percent) or 0.0, milliseconds(theirs, percent) or 0.0
            row[f"{what}_p{percent}_ms"] = round(own, 2)
            row[f"{what}_p{percent}_added_ms"] = round(own - other, 2)
    return row


async def spread(options: argparse.Namespace, side: str) -> dict[str, Any]:
    random_ = random.Random(options.seed)
    arrivals = drawn(random_, options)
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(served(Replica(options.places, TOKEN_SECONDS)))
            for _ in range(options.replicas)
        ]
        if side == "router":
            router = await stack.enter_async_context(Router(replicas))
            calls = [await caller(stack, router.address)]
        else:
            calls = [await caller(stack, f"{HOST}:{replica.grpc}") for replica in replicas]
        begun = time.perf_counter()
        tasks = []
        for place, (at, tokens) in enumerate(arrivals):
            await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
            tasks.append(asyncio.ensure_future(calls[place % len(calls)](asked(tokens, place))))
        await asyncio.gather(*tasks)
    waits = [wait for replica in replicas for wait in replica.waits]
    ranked = {f"wait_p{percent}_ms": round(milliseconds(waits, percent) or 0.0, 1) for percent in (50, 95, 99)}
    mean = round(1000 * statistics.fmean(waits), 1)
    return {"name": f"skewed lengths: {side}", "requests": len(waits), "wait_mean_ms": mean, **ranked}


def drawn(random_: random.Random, options: argparse.Namespace) -> list[tuple[float, int]]:
    """When each request comes, in seconds, and how many tokens it wants."""
    mu = -(SPREAD**2) / 2  # of a log-normal variable with mean 1
    rate = options.load * options.replicas * options.places / (MEAN_TOKENS * TOKEN_SECONDS)
    at, arrivals = 0.0, []
    while (at := at + random_.expovariate(rate)) < options.seconds:
        arrivals.append((at, max(1, round(MEAN_TOKENS * random_.lognormvariate(mu, SPREAD)))))
    return arrivals


async def caller(stack: AsyncExitStack, address: str) -> Call:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    method = channel.unary_stream(METHOD)

    async def call(request: bytes) -> tuple[float, float]:
        """Seconds to the first token, and to the end."""
        begun, first = time.perf_counter(), 0.0
        async for _ in method(request):
            first = first or time.perf_counter() - begun
        return first, time.perf_counter() - begun

    return call


class Router:
    """`headrace route` as a process of its own."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.address = ""
        self._log = Path(tempfile.mkdtemp()) / "log"
        flags = [f"--replica={HOST}:{replica.grpc}:{replica.http}" for replica in replicas]
        ports = ["--grpc-port=0", "--http-port=0", "--admin-port=0", "--threads=1"]
        self._command = [sys.executable, "-m", "headrace_router", *ports, *flags]

    async def __aenter__(self) -> "Router":
        with self._log.open("w") as sink:
            self._process = Popen(self._command, stderr=sink, stdout=sink)  # noqa: ASYNC220 - returns at once
        admin = await self._said("metrics and health: ")
        self.address = (await self._said("listening: gRPC ")).rstrip(",")
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{admin}/readyz") as response:
                    if response.ok:
                        return self
                await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    async def _said(self, before: str) -> str:
        """The word behind `before` in its log."""
        while True:
            text = self._log.read_text()
            if before in text:
                return text.partition(before)[2].split()[0]
            if self._process.poll() is not None:
                raise SystemExit(f"the router ended:\n{text}")
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
