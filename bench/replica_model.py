"""Does the simulator's replica behave as our server does? Its constants are fitted to one, and judged on other runs.

    python bench/replica_model.py --json replica.json

A real server process on the CPU, asked over gRPC. Steps are timed at several batch sizes and contexts, prompts at
several lengths: a law is fitted to every other size (`fitted`) and judged on the sizes between (`held out`), on prompts
that take several steps, and on prompts that join others who decode. At last requests of random lengths come at random
times, to the server and to the simulated replica alike: how long do they wait, and how long are they inside? The
highest of these loads tells how much longer a step takes when kinds of work mix; the others judge.

`headrace simulate --replica replica.json` takes the result as its replica. `--raw FILE` keeps what was measured, and
`--judge FILE` judges another law by it without measuring again.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.report import add_json, report
from headrace_operator.simulate.engine import COSTS, Engine
from headrace_operator.simulate.replica import Filling, Replica, Waits
from headrace_operator.simulate.traces import Request
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from served_process import serve_command, served

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
SLOTS, BUDGET = 8, 512  # sequences and tokens in a step
BATCHES, CONTEXTS = (1, 2, 3, 4, 6, 8), (16, 96, 192, 384)  # sequences; tokens of a prompt
PROMPTS = (32, 64, 96, 128, 192, 256, 384, 448)  # tokens
LONG = (640, 896)  # tokens: more than a step holds
JOINED = tuple((batch, prompt) for batch in (1, 3, 6) for prompt in (96, 384))  # answers, and who comes to them
ANSWER = 200  # tokens
LOADS = (0.4, 0.6, 0.8, 1.0, 1.3)  # of what the fitted replica carries
LENGTHS = ((16, 256), (16, 64))  # tokens of a prompt and of an answer in the random load
MAX_WAIT = 600.0  # seconds: nobody is refused
FLAGS = (f"--max-running={SLOTS}", f"--max-tokens-per-step={BUDGET}", f"--max-wait={MAX_WAIT:g}")
BASE = Engine(tokens_per_step=BUDGET, slots=SLOTS, kv_tokens=100_000, max_wait=MAX_WAIT)


@dataclass(frozen=True, slots=True)
class Timed:
    """Steps of one kind."""

    name: str
    answers: int
    prompt: int  # tokens computed beside them
    context: float  # tokens read, of the answers
    seconds: float  # of a step

    @property
    def features(self) -> tuple[float, ...]:
        """What each of COSTS is multiplied with."""
        pairs = self.prompt * self.prompt / 2
        return (1.0, self.answers + self.prompt, float(self.answers), self.context, pairs)

    def row(self, part: str, engine: Engine) -> dict[str, Any]:
        told = sum(getattr(engine, cost) * times for cost, times in zip(COSTS, self.features, strict=True))
        return compared(self.name, part, self.seconds, told)


@dataclass(frozen=True, slots=True)
class Stay:
    """One request in the server: tokens, and seconds."""

    at: float  # since the load began
    prompt: int
    answer: int
    wait: float
    prefill: float
    decode: float

    @property
    def whole(self) -> float:
        return self.wait + self.prefill + self.decode

    @property
    def request(self) -> Request:
        return Request(self.at, self.prompt, self.answer)


class Caller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        self._dice = random.Random(1)

    async def ask(self, prompt: int, answer: int, begin: float = 0.0) -> tuple[list[tuple[float, int]], Stay]:
        """(when, tokens so far) of each reply, and what the server says. No prompt begins as another."""
        ids = [self._dice.randint(1, 500) for _ in range(prompt)]
        message = pb.GenerateRequest(tokens=pb.TokenIds(ids=ids), max_new_tokens=answer, ignore_eos=True)
        at, seen, tokens, usage = time.perf_counter(), [], 0, pb.Usage()
        async for reply in self._stub.Generate(message):
            if reply.token_ids:
                tokens += len(reply.token_ids)
                seen.append((time.perf_counter(), tokens))
            usage = reply.usage if reply.HasField("usage") else usage
        told = Stay(
            at - begin, prompt, answer, usage.queue_wait_seconds, usage.prefill_seconds, usage.decode_seconds
        )  # fmt: skip
        return seen, told

    async def decode(self, batch: int, prompt: int) -> Timed:
        """The step in which `batch` answers grow: from the last one's first token to the first one's last."""
        told = [seen for seen, _ in await asyncio.gather(*(self.ask(prompt, ANSWER) for _ in range(batch)))]
        begin, end = max(seen[0][0] for seen in told), min(seen[-1][0] for seen in told)
        late = [entry for entry in max(told, key=lambda seen: seen[0][0]) if begin <= entry[0] <= end]
        (begin, first), (end, last) = late[0], late[-1]
        middle = (begin + end) / 2
        grown = sum(max(tokens for when, tokens in seen if when <= middle) for seen in told)
        return Timed(f"{batch} answers at {prompt}", batch, 0, batch * prompt + grown, (end - begin) / (last - first))

    async def prefill(self, prompt: int) -> tuple[Timed, float]:
        """And the seconds until an idle engine saw it."""
        _, told = await self.ask(prompt, 1)
        return Timed(f"prompt of {prompt}", 0, prompt, 0.0, told.prefill), told.wait

    async def joined(self, batch: int, prompt: int) -> float:
        """Seconds from the first step to the first token of a prompt that comes to others who decode."""
        others = [asyncio.create_task(self.ask(16, 400)) for _ in range(batch)]
        await asyncio.sleep(0.15)
        _, told = await self.ask(prompt, 2)
        await asyncio.gather(*others)
        return told.prefill

    async def load(self, requests: Sequence[Request]) -> list[Stay]:
        begin, tasks = time.perf_counter(), []
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await asyncio.sleep(max(0.0, begin + request.at - time.perf_counter()))
                tasks.append(group.create_task(self.ask(request.prompt, request.generated, begin)))
        return sorted((task.result()[1] for task in tasks), key=lambda stay: stay.at)


Raw = dict[str, Any]


async def measured(options: argparse.Namespace) -> Raw:
    with tempfile.TemporaryDirectory() as directory:
        async with served(serve_command(options.model, *FLAGS), Path(directory)) as server:  # noqa: SIM117 - in this order
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                caller = Caller(channel)
                await caller.decode(SLOTS, CONTEXTS[0])  # warms up
                raw: Raw = {"steps": [], "waits": [], "long": [], "joined": [], "loads": []}
                for _ in range(options.repeats):  # a busy second hits one round
                    await one_round(caller, raw)
                most = carried(fitted_to(raw))
                for share in LOADS:
                    requests = poisson(share * most, options.seconds, seed=int(share * 100))
                    stays = await caller.load(requests)
                    raw["loads"].append({"share": share, "stays": [asdict(stay) for stay in stays]})
    return raw


async def one_round(caller: Caller, raw: Raw) -> None:
    steps = [await caller.decode(batch, prompt) for batch in BATCHES for prompt in CONTEXTS]
    for prompt in PROMPTS:
        step, wait = await caller.prefill(prompt)
        steps.append(step)
        raw["waits"].append(wait)
    raw["steps"].append([asdict(step) for step in steps])
    raw["long"].append([(await caller.prefill(prompt))[0].seconds for prompt in LONG])
    raw["joined"].append([await caller.joined(*sizes) for sizes in JOINED])


def kinds(raw: Raw) -> list[Timed]:
    """The one in the middle of those that are alike."""
    rounds = [[Timed(**step) for step in steps] for steps in raw["steps"]]
    return [sorted(alike, key=lambda one: one.seconds)[len(alike) // 2] for alike in zip(*rounds, strict=True)]


def fitted_to(raw: Raw) -> Engine:
    engine = fitted(kinds(raw)[::2], BASE)
    return replace(engine, hand_over=round(statistics.median(raw["waits"]), 6))


def fitted(steps: Sequence[Timed], base: Engine) -> Engine:
    """Least squares of the relative error; what comes out below zero is no cost."""
    matrix = np.array([step.features for step in steps])
    seconds = np.array([step.seconds for step in steps])
    columns = list(range(len(COSTS)))
    while True:
        found, *_ = np.linalg.lstsq(matrix[:, columns] / seconds[:, None], np.ones(len(steps)), rcond=None)
        if (found >= 0).all():
            break
        columns.pop(int((found * matrix[:, columns].mean(axis=0)).argmin()))
    costs = dict.fromkeys(COSTS, 0.0) | {
        COSTS[column]: float(cost) for column, cost in zip(columns, found, strict=True)
    }
    return replace(base, **costs)


def poisson(rate: float, seconds: float, seed: int) -> list[Request]:
    dice, now, made = random.Random(seed), 0.0, list[Request]()
    while (now := now + dice.expovariate(rate)) < seconds:
        made.append(Request(now, dice.randint(*LENGTHS[0]), dice.randint(*LENGTHS[1])))
    return made


class Watched(Replica):
    """Knows when each request ended. One step later than the simulated replica says for who came to a busy engine: the
    step that it joins is planned while the device computes the one before."""

    __slots__ = ("ended", "late")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, 0.0)
        self.ended: dict[Request, float] = {}
        self.late: dict[Request, float] = {}

    def _begin(self, waited: Waits) -> Filling | None:
        filling = super()._begin(waited)
        if filling is not None:
            self.late[filling.request] = self.step
        return filling

    def _end(self, request: Request) -> None:
        super()._end(request)
        self.ended[request] = self.at + self.late.pop(request)


def simulated(engine: Engine, requests: Sequence[Request]) -> tuple[list[float], list[float]]:
    """Seconds that the same requests wait, and that they are inside."""
    replica, waited = Watched(replace(engine, max_waiting=1_000_000, max_wait=1e9)), Waits()
    for request in requests:
        while replica.next_at <= request.at:
            replica.turn(waited)
        replica.arrive(request, request.at, waited)
    while replica.step:
        replica.turn(waited)
    return [wait for _, wait in waited], [end - request.at for request, end in replica.ended.items()]


def carried(engine: Engine) -> float:
    """Requests/s of one replica whose queue never empties."""
    crowd = [request._replace(at=1e-6 * index) for index, request in enumerate(poisson(100.0, 10.0, 1))]
    return len(crowd) / max(simulated(engine, crowd)[1])


def joining(engine: Engine, batch: int, prompt: int) -> float:
    """Seconds that `Caller.joined` should measure, on average over the moments of a step at which somebody may come."""
    others = [Request(1e-6 * index, 16, 400) for index in range(batch)]
    replica, late = Watched(engine), Request(0.15, prompt, 1)
    waited = Waits()
    for request in (*others, late):
        while replica.next_at <= request.at:
            replica.turn(waited)
        replica.arrive(request, request.at, waited)
    while late not in replica.ended:
        replica.turn(waited)
    return replica.ended[late] - late.at - waited[-1][1]


def compared(name: str, part: str, seconds: float, told: float) -> dict[str, Any]:
    return {
        "name": name, "part": part, "measured_ms": round(seconds * 1e3, 3), "predicted_ms": round(told * 1e3, 3),
        "error_share": round(told / seconds - 1, 4),
    }  # fmt: skip


def step_rows(raw: Raw, engine: Engine) -> list[dict[str, Any]]:
    rows = [step.row("held out" if place % 2 else "fitted", engine) for place, step in enumerate(kinds(raw))]
    for prompt, *seconds in zip(LONG, *raw["long"], strict=True):
        told = simulated(replace(engine, hand_over=0.0), [Request(0.0, prompt, 1)])[1][0]
        rows.append(compared(f"prompt of {prompt}", "held out", statistics.median(seconds), told))
    for sizes, *seconds in zip(JOINED, *raw["joined"], strict=True):
        told = joining(engine, *sizes)
        rows.append(
            compared(f"prompt of {sizes[1]} joins {sizes[0]}", "held out, joined", statistics.median(seconds), told)
        )
    return rows


def load_row(share: float, part: str, stays: Sequence[Stay], engine: Engine) -> dict[str, Any]:
    waits, wholes = simulated(engine, [stay.request for stay in stays])
    row: dict[str, Any] = {"name": f"{share:g} of what it carries", "part": part, "requests": len(stays)}
    real = {"wait": [stay.wait for stay in stays], "inside": [stay.whole for stay in stays]}
    for name, told in (("wait", waits), ("inside", wholes)):
        for key, share_of in (("p50", 0.5), ("p95", 0.95)):
            row[f"measured_{name}_{key}_ms"] = round(quantile(real[name], share_of), 2)
            row[f"predicted_{name}_{key}_ms"] = round(quantile(told, share_of), 2)
        row[f"measured_mean_{name}_ms"] = round(statistics.fmean(real[name]) * 1e3, 2)
        row[f"predicted_mean_{name}_ms"] = round(statistics.fmean(told) * 1e3, 2)
    return row


def quantile(seconds: Sequence[float], share: float) -> float:
    """Milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1e3


def error_rows(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in ("fitted", "held out", "held out, joined"):
        errors = [abs(row["error_share"]) for row in rows if row["part"] == part]
        yield {
            "name": f"mean error of a step, {part}", "part": part, "error_share": round(statistics.fmean(errors), 4),
            "worst_error_share": max(errors),
        }  # fmt: skip


def scaled(engine: Engine, factor: float) -> Engine:
    return replace(engine, **{cost: getattr(engine, cost) * factor for cost in COSTS})


def under_load(engine: Engine, stays: Sequence[Stay]) -> float:
    """How many times longer a step takes than when one kind of work is alone: with this the mean wait of a load that
    is more than it carries is as measured."""
    requests, mean = [stay.request for stay in stays], statistics.fmean(stay.wait for stay in stays)
    low, high = 0.5, 2.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        is_short = statistics.fmean(simulated(scaled(engine, middle), requests)[0]) < mean
        low, high = (middle, high) if is_short else (low, middle)
    return low


def judged(raw: Raw) -> tuple[Engine, list[dict[str, Any]]]:
    engine = fitted_to(raw)
    rows = step_rows(raw, engine)
    rows += error_rows(rows)
    loads = [(load["share"], [Stay(**stay) for stay in load["stays"]]) for load in raw["loads"]]
    factor = under_load(engine, loads[-1][1])
    rows.append({"name": "a step under mixed load, times one alone", "part": "fitted", "factor": round(factor, 3)})
    engine = scaled(engine, factor)
    for share, stays in loads:
        part = "random load, fitted" if stays is loads[-1][1] else "random load"
        rows.append(load_row(share, part, stays, engine))
    return engine, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--repeats", type=int, default=5, help="of each size (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each random load (default %(default)s)")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="where to keep what was measured")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge what an earlier run kept; measure nothing")
    add_json(parser)
    options = parser.parse_args()
    if options.repeats < 1 or options.seconds < 1:
        parser.error("--repeats and --seconds must be at least 1")
    raw = json.loads(options.judge.read_text()) if options.judge else asyncio.run(measured(options))
    if options.raw:
        options.raw.write_text(json.dumps(raw))
    engine, rows = judged(raw)
    work = {"model": options.model.name, "slots": SLOTS, "tokens_per_step": BUDGET, "engine": asdict(engine)}
    report(options.json, work, rows, python=sys.version)


if __name__ == "__main__":
    main()
