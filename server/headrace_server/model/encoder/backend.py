"""What of an encoder's forward pass differs between devices, chosen once when it loads."""

import torch

from headrace_server.model.encoder.attention import EachText, TextAttention, VarlenAttention
from headrace_server.model.projection import Layout, Packed, Plain, is_packable

FLASH_TYPES = (torch.bfloat16, torch.float16)


def layout_for(device: torch.device, dtype: torch.dtype, *, plain: bool) -> Layout:
    """oneDNN's blocks on a CPU: for the many rows of a batch of texts as fast as any, with what follows fused in."""
    return Packed() if device.type == "cpu" and not plain and is_packable(dtype) else Plain()


def attention_for(device: torch.device, dtype: torch.dtype, *, plain: bool) -> TextAttention:
    return VarlenAttention() if device.type == "cuda" and not plain and dtype in FLASH_TYPES else EachText()
