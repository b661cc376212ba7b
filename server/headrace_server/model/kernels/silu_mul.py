"""SiLU(gate) * up in one pass, reading both halves of the gate-up projection where they lie."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import silu

from headrace_server.model.kernels.layout import require_contiguous

BLOCK = 1024  # values of one program: 8 a thread, one load of 16 bytes in bfloat16


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up (T, 2 * width), gate first -> (T, width), the same dtype; computed in float32, rounded once.

    Raises ValueError for a tensor that is not contiguous.
    """
    require_contiguous(gate_up=gate_up)
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((tokens, width), device=gate_up.device, dtype=gate_up.dtype)
    _silu_mul[(tokens, triton.cdiv(width, BLOCK))](
        gate_up, out, width=width, block=BLOCK, num_warps=4, enable_fp_fusion=True
    )
    return out


def silu_mul_in_torch(gate_up: Tensor) -> Tensor:
    """What `silu_mul` computes."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (silu(gate) * up).to(gate_up.dtype)


@triton.jit
def _silu_mul(gate_up, out, width: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    at = gate_up + token * 2 * width + columns
    gate = tl.load(at, inside, 0.0).to(tl.float32)
    up = tl.load(at + width, inside, 0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    tl.store(out + token * width + columns, product.to(out.dtype.element_ty), inside)
