"""A small model guesses what a large one will say: its tokens go where the large one reads what it feeds.

It reads what the large one reads, into a KV cache of its own under the same page numbers, and chooses by the requests'
own settings and seeds: the same draw from nearly the same distribution is mostly the same token. Rounds of one token
each; nothing here waits for the device.
"""

from dataclasses import replace

import torch

from headrace_server.model.batch import Batch, decoding
from headrace_server.model.cache import KvCache
from headrace_server.model.descriptor import Described, Drafting
from headrace_server.model.sampling_settings import Features
from headrace_server.model.sampling_state import SamplingState
from headrace_server.model.slots import Slots
from headrace_server.model.transformer import Transformer


class Drafter:
    def __init__(self, transformer: Transformer, cache: KvCache) -> None:
        self.cache = cache
        self._transformer = transformer

    def follow(self, step: Described, slots: Slots, sampling: SamplingState, features: Features) -> None:
        """Reads what the step fills in, and guesses what it asks for. `slots` know the step's grants and tokens.

        `features`: those of the step.
        """
        if step.layout.fills:
            self._transformer.hidden(_fills(step, slots))
        if step.layout.drafting is not None:
            self._guess(step, step.layout.drafting, slots, sampling, features)

    def _guess(
        self, step: Described, drafting: Drafting, slots: Slots, sampling: SamplingState, features: Features
    ) -> None:
        # Who is penalised is not guessed for, and a guess is no part of a text; nobody asks for its logprob.
        features = replace(features, penalties=False, most_logprobs=None)
        slot, position = step.draft_rows
        hidden = self._transformer.hidden(decoding(slot, position, slots))[step.draft_ends]
        slot, position = slot[step.draft_ends].long(), position[step.draft_ends].long()
        for ahead in range(max(drafting.counts, default=0)):
            going_on = sum(count > ahead for count in drafting.counts)  # the most first
            slot, position = slot[:going_on], position[:going_on]
            if ahead:
                hidden = self._transformer.hidden(decoding(slot.int(), position.int(), slots))
            position += 1
            logits = self._transformer.logits(hidden[:going_on])
            slots.keep(slot, position, sampling.choose(logits, slot, features, position).ids)


def _fills(step: Described, slots: Slots) -> Batch:
    first = step.layout.decoding
    slot, position, _ = step.rows[:, first:]
    fills = tuple(replace(fill, row=fill.row - first) for fill in step.layout.fills)
    return Batch(
        layout=replace(step.layout, tokens=step.layout.tokens - first, decoding=0, longest=0, fills=fills),
        token_ids=slots.inputs(slot, position, check=False),
        slots=slot,
        positions=position,
        cache_rows=slots.cache_rows(slot, position),
        sampled_rows=torch.empty(0, dtype=torch.int32, device=slot.device),
        fill_bounds=step.fill_bounds,
        pages=slots.pages,
    )
