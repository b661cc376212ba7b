"""What of the forward pass differs between devices, chosen once when a model loads."""

from typing import Protocol

import torch
from torch import Tensor

from headrace_server.config import EngineConfig
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention, GatherAttention, HeadNorms, Heads, with_norms
from headrace_server.model.cache import KvCache
from headrace_server.model.norm import PlainNorm, Residual, Unfused
from headrace_server.model.projection import Layout, LayoutOf, Plain
from headrace_server.model.quantised import Quantised
from headrace_server.model.quantised_products import PlainQuantised


class Backend(Protocol):
    heads_apart: bool  # a page of the KV cache holds all tokens of one head, then all of the next
    captures: bool  # decode steps are prepared for a few sizes, to be launched in one piece

    def layout(self, shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
        """How weights lie in memory; and how that was found, for the log."""

    def quantised(self) -> tuple[LayoutOf[Quantised], str]:
        """Likewise, of weights in fewer bits. Raises ModelRefused if there is no such."""

    def attention(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> Attention:
        """cos and sin: float32 (positions, head_dim / 2)."""

    def residual(self, shape: Architecture, dtype: torch.dtype) -> Residual: ...


class PlainBackend:
    """Plain torch, the same on every device: what the others are compared with."""

    heads_apart = False
    captures = False

    def layout(self, shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
        return Plain(), "as the checkpoint has them"

    def quantised(self) -> tuple[LayoutOf[Quantised], str]:
        return PlainQuantised(), "plain torch"

    def attention(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> Attention:
        return with_norms(GatherAttention(heads, cache, cos, sin), norms, heads)

    def residual(self, shape: Architecture, dtype: torch.dtype) -> Residual:
        return Unfused(PlainNorm(shape.rms_norm_eps))


def check_invariant(device: str, config: EngineConfig) -> None:
    """Raises ModelRefused."""
    if device != "cpu":
        raise ModelRefused(
            "--batch-invariant is served on a CPU only as yet: no product of a GPU was shown to keep it; leave it out"
        )
    if config.plain_kernels:
        raise ModelRefused(
            "--batch-invariant and --plain-kernels: plain torch picks its kernels by the number of rows; leave one out"
        )


def backend_for(device: torch.device, config: EngineConfig) -> Backend:
    """A pod imports no compiler of the other kind of device. Raises ModelRefused."""
    if config.batch_invariant:
        check_invariant(device.type, config)
        from headrace_server.model.cpu.invariant import InvariantBackend  # noqa: PLC0415 - as below

        return InvariantBackend()
    if config.plain_kernels:
        return PlainBackend()
    if device.type == "cuda":
        from headrace_server.model.gpu.backend import GpuBackend  # noqa: PLC0415 - see above

        return GpuBackend(config.page_size)
    from headrace_server.model.cpu.backend import CpuBackend  # noqa: PLC0415 - see above

    return CpuBackend()
