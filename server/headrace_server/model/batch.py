"""A step as the transformer sees it: the tokens of all sequences packed one after the other, decode first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.model.descriptor import Described, Layout, decode_layout
from headrace_server.model.lora.rows import AdaptedRows
from headrace_server.model.slots import Slots


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens, of which S are followed by a choice."""

    layout: Layout
    token_ids: Tensor  # int32 (T)
    slots: Tensor  # int32 (T)
    positions: Tensor  # int32 (T)
    cache_rows: Tensor  # int64 (T), where each token's key and value go: page * page_size + place in the page
    sampled_rows: Tensor  # int32 (S), of the packed step
    fill_bounds: Tensor  # int32 (fills + 1): where each begins among the rows after those that decode, and the end
    pages: Tensor  # int32 (slots, pages each): the block table
    adapted: tuple[AdaptedRows, ...] = ()


def unpack(step: Described, slots: Slots, check: bool) -> Batch:
    """Writes into the slots what the step brings and reads from them what it needs. Raises NotWritten with `check`."""
    slots.apply(step)
    slot, position, _ = step.rows
    return Batch(
        layout=step.layout,
        token_ids=slots.inputs(slot, position, check),
        slots=slot,
        positions=position,
        cache_rows=slots.cache_rows(slot, position),
        sampled_rows=step.sampled_rows,
        fill_bounds=step.fill_bounds,
        pages=slots.pages,
        adapted=tuple(AdaptedRows(name, _sent(rows, slot.device)) for name, rows in step.layout.adapted),
    )


def _sent(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """int64. The host does not wait for a GPU."""
    on_host = torch.tensor(rows, pin_memory=device.type == "cuda")
    return on_host.to(device, non_blocking=True)


def decoding(slot: Tensor, position: Tensor, slots: Slots) -> Batch:
    """One token for each of `slot` and `position`, int32 (T), all of which choose the next one."""
    rows = torch.arange(len(slot), dtype=torch.int32, device=slot.device)
    return Batch(
        layout=decode_layout(len(slot), slots.pages.shape[1] * slots.page_size),
        token_ids=slots.inputs(slot, position, check=False),
        slots=slot,
        positions=position,
        cache_rows=slots.cache_rows(slot, position),
        sampled_rows=rows,
        fill_bounds=rows[:0],
        pages=slots.pages,
    )
