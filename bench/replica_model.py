"""Does the simulator's replica behave as our server does? Its constants are fitted to one, and judged on other runs.

    python bench/replica_model.py --json -

A real server process on the CPU, asked over gRPC. Steps are timed at several batch sizes and contexts, prompts at
several lengths; a line is fitted to every other size (`fitted`) and judged on the sizes between (`held out`). At last
requests of random lengths come at random times, to the server and to the simulated replica alike: how long do they
wait? `engine` in the result is a file for `headrace simulate --replica`.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.report import add_json, report
from headrace_operator.simulate.engine import Engine
from headrace_operator.simulate.peers.static import Static
from headrace_operator.simulate.traces import Request
from headrace_operator.simulate.world import Setting, World
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from served_process import serve_command, served

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
SLOTS, BUDGET = 8, 512  # sequences and tokens in a step
BATCHES, CONTEXTS = (1, 2, 3, 4, 6, 8), (16, 96, 192, 384)  # sequences; tokens of a prompt
PROMPTS = (64, 128, 192, 256, 384, 448)  # tokens
ANSWER = 96  # tokens
LOADS = (0.5, 0.8, 1.1)  # of what the fitted replica carries
LENGTHS = ((16, 256), (16, 64))  # tokens of a prompt and of an answer in the random load
FLAGS = (f"--max-running={SLOTS}", f"--max-tokens-per-step={BUDGET}", "--max-wait=600")


@dataclass(frozen=True, slots=True)
class Timed:
    """Steps of one kind."""

    name: str
    tokens: float  # computed in a step
    context: float  # tokens read in a step
    seconds: float  # of a step

    def predicted(self, engine: Engine) -> float:
        return engine.overhead + engine.seconds_per_token * self.tokens + engine.seconds_per_kv_token * self.context

    def row(self, part: str, engine: Engine) -> dict[str, Any]:
        told = self.predicted(engine)
        return {
            "name": self.name, "part": part, "measured_ms": round(self.seconds * 1e3, 3),
            "predicted_ms": round(told * 1e3, 3), "error_share": round(told / self.seconds - 1, 4),
        }  # fmt: skip


class Caller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        self._dice = random.Random(1)

    async def ask(self, prompt: int, answer: int) -> tuple[list[tuple[float, int]], float]:
        """(when, tokens so far) of each reply, and the queue wait in seconds. No prompt begins as another."""
        ids = [self._dice.randint(1, 500) for _ in range(prompt)]
        message = pb.GenerateRequest(tokens=pb.TokenIds(ids=ids), max_new_tokens=answer, ignore_eos=True)
        seen, tokens, wait = [], 0, 0.0
        async for reply in self._stub.Generate(message):
            if reply.token_ids:
                tokens += len(reply.token_ids)
                seen.append((time.perf_counter(), tokens))
            wait = reply.usage.queue_wait_seconds if reply.HasField("usage") else wait
        return seen, wait

    async def decode(self, batch: int, prompt: int) -> Timed:
        """The step in which `batch` answers grow: from the last one's first token on, seen by that one."""
        told = await asyncio.gather(*(self.ask(prompt, ANSWER) for _ in range(batch)))
        seen = max((seen for seen, _ in told), key=lambda seen: seen[0][0])
        (begin, first), (end, last) = seen[0], seen[-1]
        return Timed(
            f"{batch} answers at {prompt}", batch, batch * (prompt + ANSWER / 2), (end - begin) / (last - first)
        )

    async def prefill(self, prompt: int) -> Timed:
        began = time.perf_counter()
        seen, _ = await self.ask(prompt, 1)
        return Timed(f"prompt of {prompt}", prompt, prompt, seen[0][0] - began)

    async def load(self, requests: Sequence[Request]) -> list[float]:
        """Queue waits in seconds of requests that come when they should."""
        begin, tasks = time.perf_counter(), []
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await asyncio.sleep(max(0.0, begin + request.at - time.perf_counter()))
                tasks.append(group.create_task(self.ask(request.prompt, request.generated)))
        return [task.result()[1] for task in tasks]


async def timed(caller: Caller, repeats: int) -> list[Timed]:
    """The quickest of each kind: whatever else the machine does only ever adds."""
    kinds = [(caller.decode, (batch, prompt)) for batch in BATCHES for prompt in CONTEXTS]
    kinds += [(caller.prefill, (prompt,)) for prompt in PROMPTS]  # type: ignore[list-item]
    await caller.decode(SLOTS, CONTEXTS[0])  # warms up
    rounds = [[await ask(*sizes) for ask, sizes in kinds] for _ in range(repeats)]  # a busy second hits one round
    return [min(alike, key=lambda one: one.seconds) for alike in zip(*rounds, strict=True)]


def fitted(steps: Sequence[Timed], base: Engine) -> Engine:
    """Least squares of the relative error; what comes out below zero is no cost."""
    matrix = np.array([[1.0, step.tokens, step.context] for step in steps])
    seconds = np.array([step.seconds for step in steps])
    columns = [0, 1, 2]
    while True:
        weighted = matrix[:, columns] / seconds[:, None]
        found, *_ = np.linalg.lstsq(weighted, np.ones(len(steps)), rcond=None)
        if (found >= 0).all():
            break
        columns.pop(int(found.argmin()))
    costs = dict.fromkeys(range(3), 0.0) | {column: float(cost) for column, cost in zip(columns, found, strict=True)}
    return replace(base, overhead=costs[0], seconds_per_token=costs[1], seconds_per_kv_token=costs[2])


def poisson(rate: float, seconds: float, seed: int) -> list[Request]:
    dice, now, made = random.Random(seed), 0.0, list[Request]()
    while (now := now + dice.expovariate(rate)) < seconds:
        made.append(Request(now, dice.randint(*LENGTHS[0]), dice.randint(*LENGTHS[1])))
    return made


def simulated(engine: Engine, requests: Sequence[Request]) -> list[float]:
    """Queue waits in seconds of the same requests."""
    world = World(Setting(engine, start=1), requests, Static(1)).run()
    return [wait for _, wait in world.waits]


def carried(engine: Engine) -> float:
    """Requests/s of one replica whose queue never empties."""
    crowd = [request._replace(at=0.0) for request in poisson(100.0, 10.0, 1)]
    world = World(Setting(engine, start=1), crowd, Static(1)).run()
    return len(crowd) / world.now


def shared(part: str, real: Sequence[float], told: Sequence[float]) -> dict[str, Any]:
    def quantile(waits: Sequence[float], share: float) -> float:
        return sorted(waits)[min(len(waits) - 1, int(share * len(waits)))] * 1e3

    quantiles = {"p50": 0.5, "p95": 0.95}
    return {
        "name": part, "part": "random load", "requests": len(real),
        "measured_mean_wait_ms": round(statistics.fmean(real) * 1e3, 2),
        "predicted_mean_wait_ms": round(statistics.fmean(told) * 1e3, 2),
        **{f"measured_wait_{name}_ms": round(quantile(real, share), 2) for name, share in quantiles.items()},
        **{f"predicted_wait_{name}_ms": round(quantile(told, share), 2) for name, share in quantiles.items()},
    }  # fmt: skip


async def measured(options: argparse.Namespace) -> tuple[Engine, list[dict[str, Any]]]:
    base = Engine(tokens_per_step=BUDGET, slots=SLOTS, kv_tokens=100_000)
    with tempfile.TemporaryDirectory() as directory:
        async with served(serve_command(options.model, *FLAGS), Path(directory)) as server:  # noqa: SIM117 - in this order
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                caller = Caller(channel)
                steps = await timed(caller, options.repeats)
                engine = fitted(steps[::2], base)
                rows = [step.row("held out" if place % 2 else "fitted", engine) for place, step in enumerate(steps)]
                most = carried(engine)
                for share in LOADS:
                    requests = poisson(share * most, options.seconds, seed=int(share * 100))
                    waits = await caller.load(requests)
                    rows.append(shared(f"{share:g} of what it carries", waits, simulated(engine, requests)))
    return engine, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--repeats", type=int, default=5, help="of each size (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each random load (default %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    if options.repeats < 1 or options.seconds < 1:
        parser.error("--repeats and --seconds must be at least 1")
    engine, rows = asyncio.run(measured(options))
    errors = {part: [abs(row["error_share"]) for row in rows if row["part"] == part] for part in ("fitted", "held out")}
    rows += [
        {"name": f"mean error of a step, {part}", "part": part, "error_share": round(statistics.fmean(each), 4),
         "worst_error_share": max(each)}
        for part, each in errors.items()
    ]  # fmt: skip
    work = {"model": options.model.name, "slots": SLOTS, "tokens_per_step": BUDGET, "engine": asdict(engine)}
    report(options.json, work, rows, python=sys.version)


if __name__ == "__main__":
    main()
