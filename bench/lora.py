"""What LoRA adapters cost a real server: the same requests for the model itself, and for one and several adapters.

    python bench/lora.py --json -

One server with random weights and --adapters adapters of all products of all layers. Each side is the same number of
requests at once, spread over so many of the adapters. The sides take turns, and a side's share is of the model's speed
in the same turn.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import torch

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
import make_checkpoint
from adapters import ALL, PREFIX, config
from comparison.report import add_json, report
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from safetensors import safe_open
from safetensors.torch import save_file
from served_process import serve_command, served

PROMPT, ANSWER = 16, 64  # tokens
VOCABULARY = 4000  # ids that prompts are drawn from: every size has them


@dataclass
class Side:
    adapters: int  # in a batch; 0: the model itself
    at_once: int  # requests
    speeds: list[float] = field(default_factory=list)  # tokens/s, a turn each
    shares: list[float] = field(default_factory=list)  # of the model's speed in the same turn

    @property
    def names(self) -> list[str]:
        """The adapter of each request; empty: none."""
        return [name(number % self.adapters) if self.adapters else "" for number in range(self.at_once)]

    def row(self) -> dict[str, Any]:
        who = {0: "the model", 1: "1 adapter"}.get(self.adapters, f"{self.adapters} adapters")
        return {
            "name": f"{self.at_once} at once, {who}", "tokens_per_second": round(statistics.median(self.speeds), 1),
            "share_of_model": round(statistics.median(self.shares), 3),
            "share_of_each_turn": [round(one, 3) for one in self.shares],
        }  # fmt: skip


def name(number: int) -> str:
    return f"adapter-{number}"


def write_adapter(directory: Path, checkpoint: Path, rank: int, seed: int) -> None:
    """Of every product of every layer, random."""
    directory.mkdir()
    dice, tensors = torch.Generator().manual_seed(seed), {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for whole in weights.keys():  # noqa: SIM118 - no mapping
                module = whole.removesuffix(".weight")
                if module.split(".")[-1] not in ALL:
                    continue
                outputs, inputs = weights.get_slice(whole).get_shape()
                tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=dice) * 0.01
                tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=dice) * 0.01
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config(rank, ALL)))


async def turn(stub: inference_pb2_grpc.InferenceStub, names: Sequence[str], dice: random.Random) -> float:
    """Tokens/s of all requests together, from the first token of the last to begin to the first that is answered.

    So it is decoding with all of them: prompts, and what is left when some are done, are outside.
    """
    begun: list[float] = []
    counts: list[list[float]] = []  # when each token came, by request

    async def ask(adapter: str) -> None:
        prompt = [dice.randrange(3, VOCABULARY) for _ in range(PROMPT)]
        message = pb.GenerateRequest(
            tokens=pb.TokenIds(ids=prompt),
            max_new_tokens=ANSWER,
            ignore_eos=True,
            **({"adapter": adapter} if adapter else {}),
        )
        times: list[float] = []
        counts.append(times)
        async for reply in stub.Generate(message):
            times += [time.perf_counter()] * len(reply.token_ids)
        begun.append(times[0])

    async with asyncio.TaskGroup() as group:
        for adapter in names:
            group.create_task(ask(adapter))
    start, end = max(begun), min(times[-1] for times in counts)
    return sum(start < at <= end for times in counts for at in times) / (end - start)


async def measured(options: argparse.Namespace, folder: Path) -> list[Side]:
    checkpoint = folder / "model"
    shape = make_checkpoint.config_of("llama", options.size, {})
    make_checkpoint.write(checkpoint, shape, torch.float32, 0)
    for number in range(options.adapters):
        write_adapter(folder / name(number), checkpoint, options.rank, number)
    flags = [f"--lora={name(number)}={folder / name(number)}" for number in range(options.adapters)]
    sides = [Side(adapters, at_once) for at_once in options.requests for adapters in spread(options.adapters, at_once)]
    command = serve_command(checkpoint, f"--max-running={max(options.requests)}", "--no-prefix-cache", *flags)
    async with served(command, folder) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        stub, dice = inference_pb2_grpc.InferenceStub(channel), random.Random(1)  # type: ignore[no-untyped-call]
        for number in range(-1, options.turns):
            speeds = {}
            for side in sides if number % 2 == 0 else reversed(sides):
                speeds[side.at_once, side.adapters] = await turn(stub, side.names, dice)
            for side in sides if number >= 0 else ():  # the first one warms
                side.speeds.append(speeds[side.at_once, side.adapters])
                side.shares.append(side.speeds[-1] / speeds[side.at_once, 0])
    return sides


def spread(adapters: int, at_once: int) -> list[int]:
    """0, 1, 4, 16 …: over how many adapters so many requests are spread."""
    most = min(adapters, at_once)
    return [0, *(4**power for power in range(10) if 4**power <= most)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=make_checkpoint.SIZES, default="144m", help="of the model (default %(default)s)"
    )
    parser.add_argument("--adapters", type=int, default=16, help="that are served (default %(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="of each (default %(default)s)")
    parser.add_argument("--requests", type=int, nargs="+", default=(1, 16), help="at once (default 1 16)")
    parser.add_argument("--turns", type=int, default=3, help="of each side (default %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    if min(options.adapters, options.rank, options.turns, *options.requests) < 1:
        parser.error("arguments --adapters, --rank, --requests and --turns: must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        sides = asyncio.run(measured(options, Path(folder)))
    work = {
        "model": options.size, "adapters": options.adapters, "rank": options.rank, "prompt_tokens": PROMPT,
        "answer_tokens": ANSWER, "turns": options.turns,
    }  # fmt: skip
    report(options.json, work, [side.row() for side in sides], torch=torch.__version__)


if __name__ == "__main__":
    main()
