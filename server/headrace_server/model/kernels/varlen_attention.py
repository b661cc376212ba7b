"""Causal attention over paged keys and values by torch's own kernels for CUDA: cuDNN or FlashAttention 2.

torch takes cuDNN where it can, and FlashAttention 2 for a sliding window. Both take bfloat16 and float16 only.
"""

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from headrace_server.model.kernels.layout import Packed

FLASH_PAGE = 256  # FlashAttention 2 reads pages whose size is a multiple of it, cuDNN any power of two


def attend_varlen(
    queries: Tensor, key_pages: Tensor, value_pages: Tensor, packed: Packed, window: int | None = None
) -> Tensor:
    """queries (T, heads, head_dim) -> the same shape and dtype.

    The arguments of `attend_paged`, except that the page size is a multiple of 256 and every sequence has a key.
    Raises ValueError for another page size.
    """
    page_size = key_pages.shape[1]
    if page_size % FLASH_PAGE:
        raise ValueError(f"the page size must be a multiple of {FLASH_PAGE} for torch's attention, got {page_size}")
    return varlen_attn(  # type: ignore[return-value] # it returns a pair only if asked for more than the output
        queries,
        key_pages,
        value_pages,
        packed.cu_q,
        packed.cu_q,  # FlashAttention 2 refuses None; used_k and block_table say where the keys are
        packed.max_q,
        packed.max_k,
        window_size=(-1 if window is None else window - 1, 0),  # torch counts the keys to the left of the query's own
        enable_gqa=True,
        seqused_k=packed.used_k,
        block_table=packed.block_table,
    )
