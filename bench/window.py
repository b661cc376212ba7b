"""What a batching window brings a real server, and what it costs: short answers, asked for at half of its capacity.

    python bench/window.py --json -

A server on the CPU for each window, all started before and asked in turns, with equal arrivals in each turn. A window
pays when steps hold more and the first token comes no later.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.rpc.pb import inference_pb2 as pb
from overload.callers import Callers, Size
from served_process import ServedProcess, serve_command, served

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
WINDOWS = (0.0, 0.005, 0.01, 0.025)  # seconds
SIZE = Size(prompt=(16, 64), answer=(1, 4))  # answers so short that the engine is idle between requests
LOAD, AT_ONCE = 0.5, 16  # times the capacity, which so many callers at once find


@dataclass
class Side:
    window: float  # seconds
    server: ServedProcess
    callers: Callers
    p50: list[float | None] = field(default_factory=list)  # milliseconds to the first token, a turn each
    p99: list[float | None] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)  # sequences in a step

    async def turn(self, rate: float, seconds: float, seed: int) -> None:
        before = await self._steps()
        asked = await self.callers.open(rate, seconds, "", seed)
        after = await self._steps()
        times = [one.ttft for one in asked if one.ttft is not None]
        self.p50.append(milliseconds(times, 50))
        self.p99.append(milliseconds(times, 99))
        self.rows.append(round((after[1] - before[1]) / (after[0] - before[0]), 2))

    async def _steps(self) -> tuple[float, float]:
        """Steps so far, and sequences in them."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.server.http}/metrics") as response:
            text = await response.text()
        found = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
        return found["headrace_batch_size_count"], found["headrace_batch_size_sum"]

    def row(self) -> dict[str, Any]:
        return {
            "name": f"window {1000 * self.window:g} ms", "ttft_p50_ms": self.p50, "ttft_p99_ms": self.p99,
            "sequences_in_a_step": self.rows, "ttft_p50_median_ms": statistics.median(filter(None, self.p50)),
            "ttft_p99_median_ms": statistics.median(filter(None, self.p99)),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn (default %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each window (default %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    if options.turns < 1 or options.seconds <= 0:
        parser.error("arguments --turns and --seconds: must be at least 1 and more than 0")
    capacity, sides = asyncio.run(measured(options))
    work = {
        "model": options.model.name, "prompt_tokens": SIZE.prompt, "answer_tokens": SIZE.answer,
        "asked_per_second": round(LOAD * capacity, 1), "seconds": options.seconds, "turns": options.turns,
    }  # fmt: skip
    report(options.json, work, [side.row() for side in sides], python=sys.version)


async def measured(options: argparse.Namespace) -> tuple[float, list[Side]]:
    """The capacity in requests per second, and what was measured."""
    async with AsyncExitStack() as stack:
        sides = [await _started(stack, options.model, window) for window in WINDOWS]
        for side in sides:  # warm
            answered = await side.callers.closed(AT_ONCE, 3.0, pb.PRIORITY_STANDARD)
        capacity = sum(one.answered for one in answered) / 3.0
        for turn in range(options.turns):
            for side in sides if turn % 2 == 0 else reversed(sides):
                await side.turn(LOAD * capacity, options.seconds, turn)
        return capacity, sides


async def _started(stack: AsyncExitStack, model: Path, window: float) -> Side:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    command = serve_command(model, f"--batching-window={window}")
    server = await stack.enter_async_context(served(command, directory))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc))
    return Side(window, server, Callers(channel, SIZE, random.Random(1)))


if __name__ == "__main__":
    main()
