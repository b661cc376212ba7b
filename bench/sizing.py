"""Does a real server carry what `headrace size` says it would? And what does it attain of this machine's speed?

    python bench/sizing.py --json -

A server on the CPU is asked over gRPC by so many callers at once, each asking again as soon as it is answered. Before
each load the machine's speeds are measured: reading a buffer of the weights' size, and one large matrix product. A long
prompt, a lone answer and a crowd at the small model say what the server attains of them (`fitted`); with that, the
tokens per second of the other loads are predicted (`held out`). `efficiency` in the result is the part `cpu` of a file
for `headrace size --efficiencies`.
"""

import argparse
import asyncio
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import torch

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.floor import Shape
from comparison.floor import Speeds as Measured
from comparison.report import add_json, report
from headrace_server.config import KvCacheDtype
from headrace_server.model.footprint import footprints
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.sizing.demand import Asked
from headrace_server.sizing.replicas import Replica, full_with
from headrace_server.sizing.roofline import Speeds, decode_seconds, prompt_seconds
from headrace_server.telemetry.work import ModelWork
from served_process import serve_command, served

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "examples" / "models" / "scripture-5m"
PROMPT, ANSWER = 32, 64  # tokens of what is fitted
LONG = 448  # tokens of the prompt that says how fast prompts are
SLOTS = 16
LOADS = ((SLOTS, PROMPT, ANSWER), (4, 32, 64), (8, 256, 32), (16, 128, 16))  # callers, tokens of prompt and answer


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    directory: Path
    work: ModelWork
    weights: float  # bytes
    shape: Shape

    @classmethod
    def read(cls, name: str, directory: Path) -> "Model":
        [footprint] = [
            each
            for each in footprints(directory, torch.float32)
            if each.weights is None and each.cache is KvCacheDtype.AUTO
        ]
        return cls(name, directory, footprint.work, footprint.bytes, Shape.read(directory, "float32"))

    def machine(self) -> Measured:
        """How fast it is now, with a buffer of these weights' size."""
        return Measured.measured(self.shape, "float32", "cpu")

    def tokens_per_second(self, speeds: Speeds, load: tuple[int, int, int]) -> float:
        """As `headrace size` has it. `load`: as LOADS."""
        callers, prompt, answer = load
        replica = Replica(self.work, speeds, self.weights, 2.0**33, SLOTS)
        return full_with(replica, (Asked(0.0, prompt, answer),), callers).requests_per_second * answer


@dataclass(frozen=True, slots=True)
class Attained:
    read: float
    multiply: float
    overhead: float  # seconds a step
    token_overhead: float = 0.0  # seconds a token

    def of(self, machine: Measured) -> Speeds:
        read, multiply = machine.read * self.read, machine.multiply * self.multiply
        return Speeds(read, multiply, self.overhead, self.token_overhead)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server did, and how fast the machine was then."""

    machine: Measured  # while these two were asked
    long_prompt: float  # seconds until its first token
    step: float  # seconds between two tokens, alone
    rates: tuple[tuple[Measured, float], ...]  # tokens a second, of LOADS


class Caller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        self._dice = random.Random(1)

    async def ask(self, prompt: int, answer: int) -> list[float]:
        """When each token came, the first element being when it was asked. No prompt begins as another."""
        ids = [self._dice.randint(1, 500) for _ in range(prompt)]
        message = pb.GenerateRequest(tokens=pb.TokenIds(ids=ids), max_new_tokens=answer, ignore_eos=True)
        times = [time.perf_counter()]
        async for reply in self._stub.Generate(message):
            times += [time.perf_counter()] * len(reply.token_ids)
        return times

    async def crowd(self, callers: int, prompt: int, answer: int, seconds: float) -> float:
        """Tokens a second while all of them ask, after a warm-up of a fifth of the time."""
        begin = time.perf_counter() + seconds / 5
        end = begin + seconds

        async def again() -> list[float]:
            times: list[float] = []
            while time.perf_counter() < end:
                times += (await self.ask(prompt, answer))[1:]
            return times

        told = await asyncio.gather(*(again() for _ in range(callers)))
        tokens = sum(begin <= each < end for times in told for each in times)
        if not tokens:
            sys.exit(f"{callers} callers with prompts of {prompt} tokens got none in {seconds} s; raise --seconds")
        return tokens / seconds


async def seen(model: Model, options: argparse.Namespace, directory: Path) -> Seen:
    flags = (f"--cpu-threads={options.threads}", f"--max-running={SLOTS}", "--kv-cache-mib=512", "--no-prefix-cache")
    async with (
        served(serve_command(model.directory, *flags), directory, OMP_NUM_THREADS=str(options.threads)) as server,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        caller = Caller(channel)
        await caller.crowd(SLOTS, PROMPT, ANSWER, 1.0)
        machine = model.machine()
        prompts = [await caller.ask(LONG, 1) for _ in range(options.repeats)]
        answers = [await caller.ask(PROMPT, ANSWER) for _ in range(options.repeats)]
        rates = [(model.machine(), await caller.crowd(*load, options.seconds)) for load in LOADS]
    return Seen(
        machine,
        statistics.median(times[1] - times[0] for times in prompts),
        statistics.median((times[-1] - times[1]) / (ANSWER - 1) for times in answers),
        tuple(rates),
    )


def attained(small: tuple[Model, Seen], large: tuple[Model, Seen]) -> Attained:
    """A step takes a constant and a share of reading: two sizes tell both. The large one's prompt tells how fast it
    multiplies, the small one's crowd what a token costs beyond that.
    """

    def reading(model: Model, found: Seen) -> float:
        return decode_seconds(model.work, Speeds(found.machine.read, math.inf), 1, PROMPT + ANSWER / 2)

    (few, of_few), (many, of_many) = small, large
    inverse = (of_many.step - of_few.step) / (reading(many, of_many) - reading(few, of_few))
    overhead = max(0.0, of_few.step - inverse * reading(few, of_few))
    multiplying = prompt_seconds(many.work, Speeds(math.inf, of_many.machine.multiply), LONG)
    found = Attained(min(1.0, 1 / inverse), min(1.0, multiplying / (of_many.long_prompt - overhead)), overhead)
    machine, rate = of_few.rates[0]
    more = ANSWER / rate - ANSWER / few.tokens_per_second(found.of(machine), LOADS[0])  # seconds a request
    return replace(found, token_overhead=max(0.0, more / ANSWER))


def rows(model: Model, found: Seen, share: Attained, fitted: int) -> Iterable[dict[str, Any]]:
    """`fitted`: so many of the loads, the first ones, told what is attained."""
    for place, (load, (machine, measured)) in enumerate(zip(LOADS, found.rates, strict=True)):
        predicted = model.tokens_per_second(share.of(machine), load)
        yield {
            "name": model.name,
            "part": "fitted" if place < fitted else "held out",
            **dict(zip(("callers", "prompt_tokens", "output_tokens"), load, strict=True)),
            "read_gbs": round(machine.read / 1e9, 1),
            "gigaflops": round(machine.multiply / 1e9, 1),
            "predicted_tokens_per_s": round(predicted, 1),
            "measured_tokens_per_s": round(measured, 1),
            "predicted_over_measured": round(predicted / measured, 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="that compute (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of what is fitted (default %(default)s)")
    parser.add_argument("--small", type=Path, default=SHIPPED, help="checkpoint (default: scripture-5m)")
    parser.add_argument("--large", type=Path, help="checkpoint of the larger model (default: 144 M random weights)")
    add_json(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        large = options.large or made(Path(scratch) / "144m")
        models = [Model.read(options.small.name, options.small), Model.read(large.name, large)]
        found = [asyncio.run(seen(model, options, Path(scratch))) for model in models]
    share = attained(*zip(models, found, strict=True))
    efficiency = {
        "read": round(share.read, 3),
        "multiply": round(share.multiply, 3),
        "overhead_ms": round(1000 * share.overhead, 3),
        "token_overhead_ms": round(1000 * share.token_overhead, 3),
    }
    report(
        options.json,
        {"efficiency": efficiency, "slots": SLOTS, "dtype": "float32"},
        [
            row
            for fitted, model, each in zip((1, 0), models, found, strict=True)
            for row in rows(model, each, share, fitted)
        ],
        threads=options.threads,
    )


def made(directory: Path) -> Path:
    command = [sys.executable, str(HERE / "make_checkpoint.py"), str(directory), "--size", "144m", "--dtype", "float32"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return directory


if __name__ == "__main__":
    main()
