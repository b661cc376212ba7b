"""Residual addition and RMS norm in one pass: the sum is read once by the norm, while it is still in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import rms_norm

from headrace_server.model.kernels.layout import require_contiguous, require_shape


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Adds x (T, width) to `residual` (T, width) in place; returns the norm of the sum, (T, width).

    weight (width). All of one dtype; the sum is rounded to it, the norm is computed in float32 and rounded
    once (Zhang and Sennrich 2019). Raises ValueError for tensors that do not fit together.
    """
    require_contiguous(x=x, residual=residual, weight=weight)
    require_shape("residual", residual, tuple(x.shape))
    require_shape("weight", weight, tuple(x.shape[-1:]))
    tokens, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    warps = min(max(block // 512, 1), 16)  # 16 values a thread: two loads of 16 bytes in bfloat16
    _add_rms_norm[(tokens,)](
        x, residual, weight, out, eps, width=width, block=block, num_warps=warps, enable_fp_fusion=True
    )
    return out


def add_rms_norm_in_torch(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What `add_rms_norm` computes."""
    residual += x
    return rms_norm(residual.float(), weight.shape, weight.float(), eps).to(x.dtype)


@triton.jit
def _add_rms_norm(x, residual, weight, out, eps, width: tl.constexpr, block: tl.constexpr):
    columns = tl.arange(0, block)
    inside = columns < width
    at = tl.program_id(0).to(tl.int64) * width + columns
    exact = tl.load(residual + at, inside, 0.0).to(tl.float32) + tl.load(x + at, inside, 0.0).to(tl.float32)
    total = exact.to(residual.dtype.element_ty)
    tl.store(residual + at, total, inside)
    value = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    scaled = value * scale * tl.load(weight + columns, inside, 0.0).to(tl.float32)
    tl.store(out + at, scaled.to(out.dtype.element_ty), inside)
