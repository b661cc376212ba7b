"""Which weight layout this machine multiplies fastest with, found by a short measurement when the model loads."""

import statistics
import time
from collections.abc import Callable

import torch

from headrace_server.model.architecture import Architecture
from headrace_server.model.projection import Layout, Packed, Plain, is_packable

BATCHES = (1, 8, 32, 128)  # rows: a lone request, two batches of decode, a chunk of prefill
ROUNDS = 5


def fastest_layout(shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
    """For a CPU; and how that was found, for the log."""
    if not is_packable(dtype):
        return Plain(), f"the only one for {dtype} on this processor"
    layouts: tuple[Layout, ...] = (Plain(), Packed())
    seconds = {layout.name: _seconds(layout, shape, dtype) for layout in layouts}
    found = ", ".join(f"{name} {taken * 1000:.2f} ms" for name, taken in seconds.items())
    return min(layouts, key=lambda layout: seconds[layout.name]), f"products of {BATCHES} rows take {found}"


def _seconds(layout: Layout, shape: Architecture, dtype: torch.dtype) -> float:
    gated = layout.gated(torch.rand(2 * shape.intermediate_size, shape.hidden_size).to(dtype), None)
    down = layout.projection(torch.rand(shape.hidden_size, shape.intermediate_size).to(dtype), None)
    total = 0.0
    for rows in BATCHES:
        x = torch.rand(rows, shape.hidden_size).to(dtype)
        total += _median(lambda x=x: down.added_to(x, gated(x)))  # type: ignore[misc]
    return total


@torch.inference_mode()
def _median(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
