"""What computes when no bit of an answer may depend on who else is in the step: `--batch-invariant`.

Kernels are picked, and sums are cut into parts, by the number of rows. So here products always have the same number of
rows, and everything else looks at one row at a time, in an order that follows from that row alone (He et al. 2025,
"Defeating Nondeterminism in LLM Inference").
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention, HeadNorms, Heads, NormedHeads
from headrace_server.model.batch import Batch
from headrace_server.model.cache import KvCache
from headrace_server.model.cpu import attention, parallel
from headrace_server.model.cpu.attention import STORED, CpuAttention, Pass
from headrace_server.model.cpu.kernel import PARAMETERS, KernelShape
from headrace_server.model.cpu.norm import CpuNorm
from headrace_server.model.cpu.quantised import CpuQuantised
from headrace_server.model.cpu.row_kernel import compiled_gate, compiled_reader
from headrace_server.model.norm import Residual, Unfused
from headrace_server.model.projection import Layout, LayoutOf, Packed, is_packable
from headrace_server.model.quantised import Quantised
from headrace_server.model.tiles import TILE, InTiles


class InvariantBackend:
    heads_apart = True
    captures = False

    def layout(self, shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
        """Raises ModelRefused."""
        if not parallel.is_available() or not is_packable(dtype):
            raise ModelRefused(
                f"--batch-invariant has no kernels for {dtype} with this processor and this torch; serve in float32 "
                "with torch's own wheel for Linux, or leave it out"
            )
        return InTiles(Packed(), dtype, silu_times), f"products of {TILE} rows, however many there are"

    def quantised(self) -> tuple[LayoutOf[Quantised], str]:
        layout = CpuQuantised()
        return InTiles(layout, torch.float32, silu_times), f"{layout.describe()}; {TILE} rows at a time"

    def attention(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> Attention:
        """Raises ModelRefused."""
        if not attention.is_available(cache.keys.dtype):
            raise ModelRefused(
                f"--batch-invariant has no attention for keys in {cache.keys.dtype}; serve in float32 or bfloat16, or "
                "leave it out"
            )
        by_row = RowAttention(heads, cache, cos, sin)
        if norms is None:
            return by_row
        return NormedHeads(by_row, norms, heads, _by_row(RowNorm(heads.dim, norms.epsilon), heads.dim))

    def residual(self, shape: Architecture, dtype: torch.dtype) -> Residual:
        return Unfused(RowNorm(shape.hidden_size, shape.rms_norm_eps))


class RowAttention(CpuAttention):
    """Every row of a prompt attends as one that decodes: how a prompt is cut, or found in the cache, changes no bit."""

    def __init__(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor) -> None:
        super().__init__(heads, cache, cos, sin)
        shape = KernelShape(heads.query, heads.kv, heads.dim, cache.page_size, STORED[cache.keys.dtype])
        self._reader = compiled_reader(shape)

    def _attend(self, projected: Tensor, layer: int, window: int | None, batch: Batch) -> Tensor:
        x = projected.float().contiguous()
        found = torch.empty(len(x), self._heads.query, self._heads.dim)
        layout = batch.layout
        longest = max(layout.longest, *(fill.end for fill in layout.fills), 1)
        # All of a chunk is in the pages before one of its rows reads them.
        self._run(Pass(self._kernel, x, found, 0, 0), layer, window, batch)
        self._run(Pass(self._reader, x, found, len(x), longest), layer, window, batch)
        return found.flatten(1).to(projected.dtype)


class RowNorm:
    """Belongs to one thread."""

    def __init__(self, width: int, epsilon: float) -> None:
        self._norm = CpuNorm(width, epsilon)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._norm(x.float(), weight.float()).to(x.dtype)


def _by_row(norm: RowNorm, width: int) -> Callable[[Tensor], Tensor]:
    """Of heads, by a weight of 1."""
    ones = torch.ones(width)
    return lambda heads: norm(heads.reshape(-1, width), ones).view(heads.shape)


def silu_times(both: Tensor) -> Tensor:
    """(T, 2 * width), the gate first -> (T, width): silu(gate) * up."""
    x = both.float().contiguous()
    rows, width = x.shape[0], x.shape[1] // 2
    found = torch.empty(rows, width)
    parameters = np.zeros(PARAMETERS, dtype=np.int64)
    parameters[:3] = (rows, x.data_ptr(), found.data_ptr())
    kernel = compiled_gate(width)
    threads = torch.get_num_threads() if rows * width >= WORTH_SHARING else 1
    parallel.in_parallel(kernel.address, parameters.ctypes.data, threads)
    return found.to(both.dtype)


WORTH_SHARING = 2**17  # values; below it waking the other threads costs more than they compute
