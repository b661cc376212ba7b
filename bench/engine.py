"""Our engine and transformers' generate() on the same prompts in one run, and how far ours is from the physical floor.

The floor of a step is the slower of reading all weights once and multiplying with them, at the bandwidth (on a buffer
of the weights' size) and the arithmetic speed (of one large matrix product) measured here, in as many threads.

    python bench/engine.py --model examples/models/scripture-5m --json -
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from headrace_server.config import EngineConfig, ServerConfig
from headrace_server.engine.loop import Engine
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import Loaded, load_model
from headrace_server.request import Request
from prometheus_client import CollectorRegistry
from transformers import AutoModelForCausalLM
from transformers.utils import logging

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
PROMPT = 32  # tokens
ANSWER = 64  # tokens
TOGETHER = (1, 8, 32)  # requests
ROUNDS = 5  # the two sides take turns, so that a busy moment of the machine hits both; the median counts

Prompts = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    tokens_per_second: float
    share_of_floor: float


@dataclass(frozen=True, slots=True)
class Speeds:
    read: float  # bytes/s
    multiply: float  # floating-point operations/s

    @classmethod
    def measured(cls, parameters: int) -> "Speeds":
        """The median of many: what this machine does while it is as busy as now."""
        buffer = torch.ones(parameters)
        side = 1024
        square = torch.ones(side, side)
        return cls(
            read=buffer.nbytes / statistics.median(seconds(buffer.sum) for _ in range(50)),
            multiply=2 * side**3 / statistics.median(seconds(lambda: square @ square) for _ in range(20)),
        )

    def step(self, parameters: int, together: int) -> float:
        """Seconds that a decode step takes at least."""
        return max(4 * parameters / self.read, 2 * parameters * together / self.multiply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--json", default="-", help="where to write the result; - is stdout")
    options = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    text = json.dumps(measure(options.model), indent=2)
    if options.json == "-":
        print(text)
    else:
        Path(options.json).write_text(text + "\n")


def measure(directory: Path) -> dict[str, Any]:
    ours = load_model(config_for(directory), on_phase=lambda phase: None)  # also settles the number of threads
    ours.runner.warm_up()
    theirs: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    parameters = sum(parameter.numel() for parameter in theirs.parameters())  # a tied one counts once
    machine = Speeds.measured(parameters)
    rows = [
        row
        for together in TOGETHER
        for row in compare(
            ours, theirs, some_prompts(together, ours.limits.vocab_size), machine.step(parameters, together)
        )
    ]
    return {
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "read_gigabytes_per_second": round(machine.read / 1e9, 1),
            "multiply_gigaflops": round(machine.multiply / 1e9, 1),
        },
        "work": {
            "model": directory.name,
            "dtype": "float32",
            "parameters": parameters,
            "prompt_tokens": PROMPT,
            "answer_tokens": ANSWER,
            "rounds": ROUNDS,
        },
        "rows": [
            {
                "name": row.name,
                "tokens_per_second": round(row.tokens_per_second),
                "share_of_floor": round(row.share_of_floor, 2),
            }
            for row in rows
        ],
    }


def compare(ours: Loaded, theirs: Any, prompts: Prompts, fastest_step: float) -> list[Row]:
    """`fastest_step`: seconds."""
    sides: dict[str, Callable[[], list[list[int]]]] = {
        "headrace": lambda: asyncio.run(answer_with_engine(ours, prompts)),
        "transformers": lambda: answer_with_generate(theirs, prompts),
    }
    answers = {name: side() for name, side in sides.items()}  # the first round only warms
    if answers["headrace"] != answers["transformers"]:
        sys.exit("the two sides answer differently; their speeds cannot be compared")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(seconds(side))
    count = len(prompts)
    floor = count / fastest_step  # tokens/s
    speeds = {name: count * ANSWER / statistics.median(taken) for name, taken in times.items()}
    return [Row(f"{name}, {count} together", speed, speed / floor) for name, speed in speeds.items()]


async def answer_with_engine(model: Loaded, prompts: Prompts) -> list[list[int]]:
    """Through the door that rpc uses: scheduling, streams and metrics are part of the time."""
    engine = Engine(model.runner, EngineConfig(), model.limits, ServerMetrics(CollectorRegistry()))

    async def answer(prompt: tuple[int, ...]) -> list[int]:
        async with aclosing(engine.submit(Request("bench", prompt, ANSWER, time.monotonic()))) as tokens:
            return [token.id async for token in tokens if token.id is not None]

    heartbeat = asyncio.create_task(engine.run())
    try:
        return await asyncio.gather(*map(answer, prompts))
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


def answer_with_generate(model: Any, prompts: Prompts) -> list[list[int]]:
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ANSWER,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    answers: list[list[int]] = found[:, PROMPT:].tolist()
    return answers


def some_prompts(count: int, vocabulary: int) -> Prompts:
    dice = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(3, vocabulary, (PROMPT,), generator=dice).tolist()) for _ in range(count)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def config_for(directory: Path) -> ServerConfig:
    return ServerConfig(
        model=directory,
        name=directory.name,
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        device="cpu",
        dtype="float32",
        drain_timeout=0,
        max_connection_age=0,
        termination_log=None,
        engine=EngineConfig(),
    )


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
