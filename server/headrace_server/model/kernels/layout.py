"""What the kernels here take for granted about the tensors they get, checked before a wrong address is read."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """The queries of N sequences, one after the other, each sequence's last tokens; and where their keys are."""

    cu_q: Tensor  # int32 (N + 1): where each sequence's queries start and end
    used_k: Tensor  # int32 (N): keys of each sequence
    block_table: Tensor  # int32 (N, pages each)
    max_q: int  # no sequence has more queries
    max_k: int  # or more keys; a captured graph keeps it, so there it is the most that will ever be


Scales = tuple[Tensor, Tensor]  # of keys and of values in INT8: (pages, page_size, kv_heads)


def require_scales(pages: Tensor, scales: Scales | None) -> None:
    """Pages in INT8 have them, others have none. Raises ValueError."""
    if (scales is not None) != (pages.dtype == torch.int8):
        raise ValueError(f"pages of {pages.dtype} must come {'with' if scales is None else 'without'} scales")
    if scales is not None:
        require_contiguous(key_scales=scales[0], value_scales=scales[1])
        require_shape("key_scales", scales[0], tuple(pages.shape[:3]))
        require_shape("value_scales", scales[1], tuple(pages.shape[:3]))


def require_contiguous(**tensors: Tensor) -> None:
    """The kernels compute addresses from shapes, not from strides. Raises ValueError naming the tensor."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}; call {name}.contiguous()")


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError naming the tensor."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
