"""What a CUDA device computes with."""

import logging

import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention, HeadNorms, Heads
from headrace_server.model.cache import KvCache
from headrace_server.model.gpu.attention import GpuAttention, prompt_attention
from headrace_server.model.gpu.projection import GpuLayout
from headrace_server.model.gpu.residual import GpuResidual
from headrace_server.model.kernels.rope_write import HeadNorm
from headrace_server.model.norm import Residual
from headrace_server.model.projection import Layout, LayoutOf
from headrace_server.model.quantised import Quantised

log = logging.getLogger(__name__)


class GpuBackend:
    heads_apart = False
    captures = True

    def __init__(self, page_size: int) -> None:
        """Raises ModelRefused for one that the kernels cannot divide by."""
        if page_size & (page_size - 1):
            raise ModelRefused(
                f"--page-size {page_size} is no power of two, which the kernels for GPUs ask for; leave it out (256) "
                "or give 16, 32, 64, 128, 256 or 512"
            )

    def layout(self, shape: Architecture, dtype: torch.dtype) -> tuple[Layout, str]:
        return GpuLayout(), "the only one on a GPU"

    def quantised(self) -> tuple[LayoutOf[Quantised], str]:
        raise ModelRefused(
            "weights in int8 or int4 are served on a CPU only as yet: there is no kernel for them on a GPU; leave "
            "out --quantization, and give the checkpoint as bfloat16, float16 or float32"
        )

    def attention(self, heads: Heads, cache: KvCache, cos: Tensor, sin: Tensor, norms: HeadNorms | None) -> Attention:
        if cache.scales is not None:
            log.warning(
                "--kv-cache-dtype=int8: its kernels were checked by Triton's interpreter and compiled for GPUs, but "
                "have not been run on one; hold them to `headrace evaluate --device cuda --kv-cache-dtype int8` first"
            )
        prompts, why = prompt_attention(cache)
        log.info("attention: answers by our own kernel, prompts by %s", why)
        return GpuAttention(cache, cos, sin, prompts, _by_layer(norms, heads))

    def residual(self, shape: Architecture, dtype: torch.dtype) -> Residual:
        return GpuResidual(shape.rms_norm_eps)


def _by_layer(norms: HeadNorms | None, heads: Heads) -> tuple[HeadNorm, ...] | None:
    """One weight for all query heads and one for all key heads: every head has a copy of its own."""
    if norms is None:
        return None
    return tuple(HeadNorm(weight[0], weight[heads.query], norms.epsilon) for weight in norms.weights)
