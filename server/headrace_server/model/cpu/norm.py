"""RMSNorm in one compiled pass; torch's own takes seven operations and up to 95 microseconds on a CPU."""

import numpy as np
import torch
from torch import Tensor

from headrace_server.model.cpu import parallel
from headrace_server.model.cpu.kernel import PARAMETERS, compiled_norm

WORTH_SHARING = 64  # rows; below it waking the other threads costs more than they compute


def is_available(dtype: torch.dtype) -> bool:
    return parallel.is_available() and dtype == torch.float32


class CpuNorm:
    """float32 only. Belongs to one thread."""

    def __init__(self, width: int, epsilon: float) -> None:
        self._kernel = compiled_norm(width)
        self._epsilon = np.array([epsilon])
        self._parameters = np.zeros(PARAMETERS, dtype=np.int64)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        found = torch.empty_like(x)
        rows = len(x)
        addresses = (x.data_ptr(), weight.data_ptr(), found.data_ptr(), self._epsilon.ctypes.data)
        self._parameters[:5] = [rows, *addresses]
        threads = torch.get_num_threads() if rows >= WORTH_SHARING else 1
        parallel.in_parallel(self._kernel.address, self._parameters.ctypes.data, threads)
        return found
