"""What the device remembers of each running request, one row a slot: its tokens and its pages.

Tokens carry over from step to step here: what one step chooses the next one reads, without the host. The host sends
only what is new, so its work does not grow with the context.
"""

import torch
from torch import Tensor

from headrace_server.engine.sequence import Start
from headrace_server.model.descriptor import KNOWN_THERE, Described

UNWRITTEN = -1  # no token id: with `check` a gather that finds it fails


class NotWritten(AssertionError):
    """A step read a token that no step had written. This is a bug of the engine."""


class Slots:
    def __init__(self, count: int, max_context: int, page_size: int, trash_page: int, device: torch.device) -> None:
        pages_each = -(-max_context // page_size)
        self.page_size = page_size
        self.nobodys = count  # one slot more, which only padding reads and writes: all its pages are trash
        self.pages = torch.full((count + 1, pages_each), trash_page, dtype=torch.int32, device=device)
        self.tokens = torch.full((count + 1, max_context + 1), UNWRITTEN, dtype=torch.int32, device=device)
        self.tokens[self.nobodys] = 0  # a token id: -1 has no embedding

    def start(self, start: Start) -> None:
        """Makes what the slot's last owner wrote unreadable, so that `check` finds who reads it; costs time."""
        self.tokens[start.slot].fill_(UNWRITTEN)

    def apply(self, step: Described) -> None:
        """The step's page grants and known tokens."""
        if step.layout.grants:
            slot, index, page = step.grants
            self.pages[slot, index] = page
        if step.layout.fills:
            slot, position, token = step.rows[:, step.layout.decoding :]
            self.tokens[slot, position] = token
        if step.layout.guesses:
            slot, position, token = step.rows[:, : step.layout.decoding]
            self.tokens[slot, position] = token.where(token != KNOWN_THERE, self.tokens[slot, position])

    def inputs(self, slot: Tensor, position: Tensor, check: bool) -> Tensor:
        """int32 (tokens): what each row feeds. Raises NotWritten if `check` and one of them was never written."""
        token_ids = self.tokens[slot, position]
        if check and bool((token_ids == UNWRITTEN).any()):
            raise NotWritten(f"rows {(token_ids == UNWRITTEN).nonzero().flatten().tolist()} of the step")
        return token_ids

    def cache_rows(self, slot: Tensor, position: Tensor) -> Tensor:
        """int64 (tokens): where each row's key and value go, page * page_size + place in the page."""
        pages = self.pages[slot, position // self.page_size]
        return (pages * self.page_size + position % self.page_size).long()

    def keep(self, slots: Tensor, positions: Tensor, chosen: Tensor) -> None:
        """Carry-over: `chosen` are the tokens at `positions` of `slots`."""
        self.tokens[slots, positions] = chosen.to(torch.int32)
