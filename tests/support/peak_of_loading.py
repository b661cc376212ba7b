"""How much memory it takes at most to load a checkpoint, by /proc.

In a process of its own, as a server does: in one that has run other tests, what the allocator keeps free hides a second
copy of the weights (-69 MB seen), or its gaps count as one (+9 MB seen).
"""

import ctypes
import subprocess
import sys
from pathlib import Path

import torch
from headrace_server.model.architecture import read_architecture
from headrace_server.model.projection import Layout, Packed, Plain
from headrace_server.model.weights import load_weights

PR_SET_THP_DISABLE = 41  # linux/prctl.h; huge pages would round each tensor up to 2 MiB
LAYOUTS: dict[str, Layout] = {"plain": Plain(), "packed": Packed()}
# glibc maps blocks of more than 32 MiB alone, as those of large models are, and smaller ones until one is freed: then
# gaps of a heap would be measured, a tenth of these small weights.
BLOCKS_ALONE = f"MALLOC_MMAP_THRESHOLD_={128 * 1024}"


def peak_of_loading(directory: Path, dtype: torch.dtype, layout: str) -> int:
    """bytes; `layout`: one of LAYOUTS."""
    command = ["env", BLOCKS_ALONE, sys.executable, __file__, str(directory), str(dtype).removeprefix("torch."), layout]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(found.stdout)


def resident(field: str) -> int:
    """bytes; VmRSS: now, VmHWM: at most since `forget_the_peak`"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main(directory: Path, dtype: torch.dtype, layout: Layout) -> None:
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    layout.projection(torch.ones(512, 512, dtype=dtype), None)  # loads what oneDNN needs, whatever the model's size
    shape = read_architecture(directory)
    forget_the_peak()
    before = resident("VmRSS")
    weights = load_weights(directory, shape, torch.device("cpu"), dtype, layout)
    peak = resident("VmHWM") - before
    assert len(weights.layers) == shape.layers
    print(peak)


if __name__ == "__main__":
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]), LAYOUTS[sys.argv[3]])
