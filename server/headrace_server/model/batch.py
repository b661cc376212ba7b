"""A step as the transformer sees it: the tokens of all sequences packed one after the other, decode first."""

from dataclasses import dataclass

from torch import Tensor

from headrace_server.model.descriptor import Described, Layout
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
    pages: Tensor  # int32 (slots, pages each): the block table


def unpack(step: Described, slots: Slots, check: bool) -> Batch:
    """Writes into the slots what the step brings and reads from them what it needs. Raises NotWritten with `check`."""
    slots.apply(step)
    slot, position, _ = step.rows
    pages = slots.pages[slot, position // slots.page_size]
    return Batch(
        layout=step.layout,
        token_ids=slots.inputs(step, check),
        slots=slot,
        positions=position,
        cache_rows=(pages * slots.page_size + position % slots.page_size).long(),
        sampled_rows=step.sampled_rows,
        pages=slots.pages,
    )
