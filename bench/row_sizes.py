"""What it costs, and what it saves, to compute a CPU's steps with a few numbers of rows instead of any.

    python bench/row_sizes.py --json -

oneDNN compiles kernels for each number of rows that it meets, and keeps them. Each side is a process of its own that
loads the same weights and multiplies steps of random numbers of rows with all of them: exactly so many rows; the next
of the few sizes that the server takes; exactly so many, with a bound on what oneDNN keeps; and plain products, which
keep nothing. No attention, no norms: only what depends on the number of rows. The sides take turns; figures are of the
median turn.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison.report import add_json, report

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
BOUND = 32  # kernels
SIDES = ("exact", "few sizes", "exact, bounded cache", "plain")
DECODE, PREFILL = (1, 32), (33, 1024)  # rows of a step; every other step is of one kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--steps", type=int, default=600, help="of each side and turn (default %(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what such a process does
    add_json(parser)
    options = parser.parse_args()
    if options.steps < 1 or options.turns < 1:
        parser.error("arguments --steps and --turns: must be at least 1")
    if options.side:
        print(json.dumps(multiplied(options.model, options.side, options.steps)))
        return
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(options.turns):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            turns[side].append(in_a_process(options, side))
    work = {"model": options.model.name, "steps": options.steps, "turns": options.turns}
    report(options.json, work, [median_row(side, found) for side, found in turns.items()], python=sys.version)


def in_a_process(options: argparse.Namespace, side: str) -> dict[str, Any]:
    bound = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(BOUND)} if "bounded" in side else {}
    command = [sys.executable, __file__, "--model", str(options.model), "--steps", str(options.steps), "--side", side]
    environment = os.environ | bound  # noqa: TID251 - oneDNN reads it when it is loaded
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def median_row(side: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": side} | {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def multiplied(model: Path, side: str, steps: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - only a side needs it

    torch.set_num_threads(1)  # as the server does for a model of this size
    products, at_least = products_of(model, side)
    dice, asked, computed, sizes = random.Random(steps), 0, 0, set()
    before, began, busy = resident_mib(), time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for step in range(steps):
            rows = dice.randint(*(PREFILL if step % 2 else DECODE))
            size = at_least(rows)
            products(size)
            asked, computed = asked + rows, computed + size
            sizes.add(size)
    return {
        "rows_per_second": round(asked / (time.perf_counter() - began)),
        "rows_per_processor_second": round(asked / (time.process_time() - busy)),
        "padding": round(computed / asked - 1, 4),
        "different_sizes": len(sizes),
        "grew_by_mib": round(resident_mib() - before, 1),
    }


def products_of(model: Path, side: str) -> tuple[Callable[[int], object], Callable[[int], int]]:
    """All of a step of so many rows, and the rows that are computed for so many."""
    import torch  # noqa: PLC0415
    from headrace_server.model.architecture import read_architecture  # noqa: PLC0415
    from headrace_server.model.projection import Packed, Plain  # noqa: PLC0415
    from headrace_server.model.row_sizes import ANY  # noqa: PLC0415
    from headrace_server.model.weights import load_weights  # noqa: PLC0415

    shape = read_architecture(model)
    layout = Plain() if side == "plain" else Packed()
    weights = load_weights(model, shape, torch.device("cpu"), torch.float32, layout)

    def products(rows: int) -> object:
        x = torch.rand(rows, shape.hidden_size)
        for layer in weights.layers:
            heads = layer.qkv(x)[:, : shape.heads * shape.head_dim].contiguous()
            x = layer.down.added_to(layer.out.added_to(x, heads), layer.gated(x))
        return weights.head(x[: DECODE[1]])

    return products, (weights.rows if side == "few sizes" else ANY).at_least


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
