"""Weights, a KV cache and a backend's kernels put together: the part of loading that each of two models needs."""

import torch

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import HeadNorms, Heads
from headrace_server.model.backend import Backend
from headrace_server.model.cache import KvCache
from headrace_server.model.lora.delta import NO_ADAPTERS, Adapters
from headrace_server.model.transformer import Transformer
from headrace_server.model.weights import Weights


def assembled(
    shape: Architecture,
    weights: Weights,
    cache: KvCache,
    backend: Backend,
    *,
    positions: int,
    dtype: torch.dtype,
    adapters: Adapters = NO_ADAPTERS,
) -> Transformer:
    """`positions`: that a sequence has at most; `dtype`: of what is computed. May compile kernels: seconds."""
    cos, sin = shape.rope.tables(positions, shape.head_dim, cache.keys.device)
    heads = Heads(shape.heads, shape.kv_heads, shape.head_dim)
    attention = backend.attention(heads, cache, cos, sin, _head_norms(shape, weights))
    return Transformer(shape, weights, attention, backend.residual(shape, dtype), adapters)


def _head_norms(shape: Architecture, weights: Weights) -> HeadNorms | None:
    norms = tuple(layer.qk_norm for layer in weights.layers if layer.qk_norm is not None)
    return HeadNorms(norms, shape.rms_norm_eps) if norms else None
