"""How many threads compute on a CPU, and on which cores."""

import os

import torch

from headrace_server.config import EngineConfig
from headrace_server.errors import ModelRefused

SMALL = 100_000_000  # parameters


def settle_threads(config: EngineConfig, parameters: int) -> None:
    """For the thread that calls it, and for those that torch starts for it. Raises ModelRefused for cores not ours.

    Unless told otherwise a small model gets one thread, since waiting for a second costs more than it computes of a
    small step (5.5 M parameters, 8 sequences, a busy machine with 2 cores: 14 ms a step with one thread, 251 ms with
    two). A larger one keeps torch's choice, which OMP_NUM_THREADS sets.
    """
    cores = config.cpu_cores
    if cores is not None:
        strange = sorted(set(cores) - os.sched_getaffinity(0))
        if strange:
            ours = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise ModelRefused(f"--cpu-cores names {strange}; this process may use cores {ours}")
        os.sched_setaffinity(0, cores)
    if config.cpu_threads is not None:
        torch.set_num_threads(config.cpu_threads)
    elif cores is not None:
        torch.set_num_threads(len(cores))
    elif parameters < SMALL:
        torch.set_num_threads(1)
