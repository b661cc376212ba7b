"""What fewer bits bring and what they cost, in one run: tokens per second, memory, and how much worse the answers are.

    python bench/economics.py --json -

Speed is that of random weights, as many as --size says: what a product costs does not depend on the numbers.
Quality is that of the shipped model on golden texts, which it never saw. The sides take turns. docs/benchmarks.md
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import speculation
import torch
from comparison.figures import Load, Measured
from comparison.floor import Shape, Speeds, median_seconds
from comparison.plan import Plan
from comparison.process import Command, SideProcess
from comparison.report import add_json, report
from headrace_server.config import EngineConfig, KvCacheDtype, QuantizationConfig, WeightFormat
from headrace_server.model.architecture import read_architecture
from headrace_server.model.cache import bytes_per_token, cache_dtype
from headrace_server.model.cpu.quantised import CpuQuantised
from headrace_server.model.quantisation import asked, quantisation
from headrace_server.model.quantised import quantised
from headrace_server.model.work import work_of
from headrace_server.telemetry.work import ModelWork

HERE = Path(__file__).parent
MODELS = HERE.parent / "examples" / "models"
SQUARE = 2048  # of the product that says how fast INT8 is multiplied
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    dtype: str = "float32"
    weights: WeightFormat | None = None
    cache: KvCacheDtype = KvCacheDtype.AUTO

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the side."""
        return (*([f"weights={self.weights}"] if self.weights else []), f"kv={self.cache}")

    @property
    def options(self) -> list[str]:
        """Of `headrace evaluate`."""
        quantization = [f"--quantization={self.weights}"] if self.weights else []
        return [f"--dtype={self.dtype}", f"--kv-cache-dtype={self.cache}", *quantization]

    @property
    def multiplies(self) -> str:
        return "int8" if self.weights is WeightFormat.INT8 else self.dtype


MODES = (
    Mode("float32"),
    Mode("bfloat16", dtype="bfloat16"),
    Mode("int8", weights=WeightFormat.INT8),
    Mode("int4", weights=WeightFormat.INT4),
    Mode("kv-int8", cache=KvCacheDtype.INT8),
    Mode("int8, kv-int8", weights=WeightFormat.INT8, cache=KvCacheDtype.INT8),
)


GUESSERS = ("ngram", "draft")  # tokens guessed ahead; of these the shipped model is served, not random weights
NAMES = [*(mode.name for mode in MODES), *GUESSERS]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("asked to stop"))  # and take the sides along
    options = parsed(sys.argv[1:])
    modes, threads = [mode for mode in MODES if mode.name in options.modes], torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or made(options.size, Path(scratch) / options.size)
        plan = planned(model, options)
        speeds = {kind: speed(kind, plan) for kind in sorted({mode.multiplies for mode in modes})}
        measured = compare(plan, modes, Path(scratch))
        qualities = {mode.name: {} if options.no_quality else quality(mode, options) for mode in modes}
        whole = {one.load: step_seconds(one) for one in measured.get("float32", [])}
        rows = [
            row(mode, one, whole.get(one.load), plan, speeds[mode.multiplies]) | qualities[mode.name]
            for mode in modes
            for one in measured[mode.name]
        ]
    rows += guessing(options)
    report(
        options.json,
        {
            "model": model.name,
            "parameters": plan.shape.parameters,
            "rounds": plan.rounds,
            "quality_of": options.quality.name,
        },
        rows,
        threads=threads,
        torch=torch.__version__,
        read_gigabytes_per_second={kind: round(each.read / 1e9, 1) for kind, each in speeds.items()},
        multiply_gigaoperations={kind: round(each.multiply / 1e9, 1) for kind, each in speeds.items()},
    )


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="checkpoint whose speed is measured (default: one of --size, made for it)")
    add("--size", choices=("1m", "144m", "1b"), default="144m", help="of random weights (default %(default)s)")
    add("--quality", type=Path, default=MODELS / "scripture-5m", help="checkpoint whose quality is measured")
    add("--golden", type=Path, default=MODELS / "golden.jsonl", help="held-out texts of it")
    add("--modes", type=_modes, default=NAMES, help="some, such as 'int8;ngram'")
    add("--no-quality", action="store_true", help="measure speed and memory alone")
    add("--requests", type=lambda words: tuple(map(int, words.split(","))), default=(1, 16), help="together")
    add("--prompt", type=int, default=32, help="tokens")
    add("--output", type=int, default=64, help="tokens")
    add("--rounds", type=int, default=3, help="turns of each side; the median counts")
    add_json(parser)
    return parser.parse_args(words)


def _modes(words: str) -> list[str]:
    names = words.split(";")
    strange = [name for name in names if name not in NAMES]
    if strange:
        raise argparse.ArgumentTypeError(f"names {'; '.join(strange)}; known: {'; '.join(NAMES)}")
    return names


def guessing(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same answers in fewer steps: bench/speculation.py ends with an error if they are not the same."""
    sides = [name for name in GUESSERS if name in options.modes]
    if not sides:
        return []
    words = [f"--model={options.quality}", f"--golden={options.golden}", f"--sides={','.join(sides)}"]
    words += [f"--rounds={options.rounds}", f"--requests={','.join(map(str, options.requests))}"]
    found = asyncio.run(speculation.measured(speculation.parsed(words)))
    return [_as_others_are_told(row) | {"model": options.quality.name} for row in found]


def _as_others_are_told(row: dict[str, Any]) -> dict[str, Any]:
    """Of bench/speculation.py, which has made sure that all tokens are the same."""
    rest = {name: value for name, value in row.items() if name not in {"name", "times_plain"}}
    name = "float32" if row["name"] == "plain" else row["name"]
    return {"name": name, "times_float32": row["times_plain"], "token_agreement": 1.0} | rest


def made(size: str, directory: Path) -> Path:
    command = [sys.executable, str(HERE / "make_checkpoint.py"), str(directory), "--family", "llama", "--size", size]
    subprocess.run([*command, "--dtype", "float32"], check=True, stdout=subprocess.DEVNULL)
    return directory


def planned(model: Path, options: argparse.Namespace) -> Plan:
    return Plan(
        model=model,
        shape=Shape.read(model, "float32"),
        dtype="float32",
        device="cpu",
        loads=tuple(Load(requests, options.prompt, options.output) for requests in options.requests),
        peers=(),
        rounds=options.rounds,
        check=False,
    )


def compare(plan: Plan, modes: Sequence[Mode], logs: Path) -> dict[str, list[Measured]]:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}  # noqa: TID251 - the command-line edge
    found: dict[str, list[Measured]] = {}
    with ExitStack() as stack:
        sides = {}
        for mode in modes:
            command = Command(mode.name, sys.executable, "comparison.headrace_side", mode.arguments)
            side = SideProcess(command, replace(plan.settings, dtype=mode.dtype), logs, environment)
            sides[mode.name] = stack.enter_context(side)
            seconds = side.first_token(plan.work(plan.loads[0], turn=-1).prompts[0])
            found[mode.name] = [Measured(mode.name, load, seconds) for load in plan.loads]
            tell(f"{mode.name}: first token after {seconds:.1f} s")
        for number, load in enumerate(plan.loads):
            for turn in range(plan.rounds + 1):  # the first one warms
                for mode in modes:
                    answers = sides[mode.name].answer(plan.work(load, turn))
                    if turn:
                        found[mode.name][number].rounds.append(answers)
            tell(f"{load}: measured")
    return found


def speed(kind: str, plan: Plan) -> Speeds:
    """Of reading and of multiplying, as this kind of numbers is multiplied."""
    if kind != "int8":
        return Speeds.measured(plan.shape, kind, "cpu")
    matrix = quantised("square", torch.randn(SQUARE, SQUARE), quantisation(WeightFormat.INT8, 64, ()))
    product, x = CpuQuantised().projection(matrix, None), torch.randn(SQUARE, SQUARE)
    buffer = torch.ones(plan.shape.streamed, dtype=torch.int8)
    return Speeds(
        read=buffer.nbytes / median_seconds(buffer.view(torch.float32).sum, "cpu"),
        multiply=2 * SQUARE**3 / median_seconds(lambda: product(x), "cpu"),
    )


def quality(mode: Mode, options: argparse.Namespace) -> dict[str, Any]:
    """By `headrace evaluate`, against the same checkpoint in float32."""
    command = [str(Path(sys.executable).with_name("headrace")), "evaluate", "--json=-", f"--model={options.quality}"]
    done = subprocess.run(
        [*command, f"--golden={options.golden}", *mode.options], stdout=subprocess.PIPE, text=True, check=False
    )
    if not done.stdout:
        sys.exit(f"{mode.name}: headrace evaluate ended with status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)["quality"]
    wanted = ("perplexity", "perplexity_increase", "token_agreement", "kl")
    return {name: round(found[name], 5) for name in wanted}


def row(mode: Mode, one: Measured, whole: float | None, plan: Plan, speeds: Speeds) -> dict[str, Any]:
    """`whole`: seconds of a step in float32; None: that was not measured."""
    work = _work(mode, plan)
    taken = step_seconds(one)
    context = one.load.requests * (one.load.prompt + one.load.output / 2)
    operations = one.load.requests * (work.flops_per_token + work.flops_per_sample) + context * work.flops_per_pair
    bytes_read = work.weight_bytes + context * work.kv_bytes_per_token
    least = max(bytes_read / speeds.read, operations / speeds.multiply)
    return {
        "name": mode.name,
        "requests": one.load.requests,
        "decode_tokens_per_s": round(one.load.requests / taken, 1),
        "times_float32": round(whole / taken, 2) if whole else None,
        "output_tokens_per_s": round(statistics.median(one.speeds), 1),
        "step_ms": round(1000 * taken, 2),
        "share_of_floor": round(least / taken, 3),
        "weights_mib": round(work.weight_bytes / MIB, 1),
        "resident_mib": round(max(each.resident or 0 for each in one.rounds) / MIB),
        "kv_bytes_per_token": round(work.kv_bytes_per_token),
    }


def step_seconds(one: Measured) -> float:
    """The median time between two tokens of a request, over all of them."""
    return statistics.median(
        later - earlier for answers in one.rounds for times in answers.times or () for earlier, later in pairwise(times)
    )


def _work(mode: Mode, plan: Plan) -> ModelWork:
    shape, dtype = read_architecture(plan.model), getattr(torch, mode.dtype)
    kept = cache_dtype(EngineConfig(kv_cache_dtype=mode.cache), dtype)
    work = work_of(shape, dtype, asked(QuantizationConfig(mode.weights)))
    return replace(work, kv_bytes_per_token=float(bytes_per_token(shape, kept)))


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
