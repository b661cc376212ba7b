"""What a CPU computes with: compiled kernels and oneDNN's weights where they work, else plain torch."""

import logging

import torch
from torch import Tensor

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention, GatherAttention, HeadNorms, Heads, with_norms
from headrace_server.model.cache import KvCache
from headrace_server.model.cpu import attention, norm
from headrace_server.model.cpu.quantised import CpuQuantised
from headrace_server.model.layouts import fastest_layout
from headrace_server.model.norm import PlainNorm, Residual, Unfused
from headrace_server.model.projection import Layout, LayoutOf
from headrace_server.model.quantised import Quantised

log = logging.getLogger(__name__)


class CpuBackend:
    heads_apart = True
    captures = False

    def layout(self, shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
        return fastest_layout(shape, dtype)

    def quantised(self) -> tuple[LayoutOf[Quantised], str]:
        layout = CpuQuantised()
        return layout, layout.describe()

    def attention(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> Attention:
        return with_norms(self._without_norms(heads, cache, cos, sin), norms, heads)

    def residual(self, shape: Architecture, dtype: torch.dtype) -> Residual:
        if norm.is_available(dtype):
            return Unfused(norm.CpuNorm(shape.hidden_size, shape.rms_norm_eps))
        return Unfused(PlainNorm(shape.rms_norm_eps))

    def _without_norms(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor) -> Attention:
        if not attention.is_available(cache.keys.dtype):
            log.warning("attention copies its context each step: no kernel for %s with this torch", cache.keys.dtype)
            return GatherAttention(heads, cache, cos, sin)
        return attention.CpuAttention(heads, cache, cos, sin)
