"""What the device remembers of each running request, one row a slot: its pages, its last token, how it samples.

It is written when a request starts and by the device itself, so a step sends only what is new, and the host's work does
not grow with the context.
"""

import torch
from torch import Tensor

from headrace_server.engine.sequence import Start
from headrace_server.model.cache import KvCache
from headrace_server.model.sampler import Choice
from headrace_server.request import Sampling


class Slots:
    def __init__(self, count: int, pages_each: int, cache: KvCache) -> None:
        device = cache.keys.device
        self._cache = cache
        self.pages = torch.full((count, pages_each), cache.pages, device=device)  # int64; the tail is the padding page
        self.last_token = torch.zeros(count, dtype=torch.int64, device=device)
        self._choices = Choice(
            temperature=torch.zeros(count, device=device),
            top_k=torch.zeros(count, dtype=torch.int64, device=device),
            top_p=torch.ones(count, device=device),
            seed=torch.zeros(count, dtype=torch.int64, device=device),
        )
        self._greedy = [True] * count

    def start(self, start: Start) -> None:
        pages = torch.tensor(start.pages, device=self.pages.device)
        self._cache.clear(pages)
        row = self.pages[start.slot]
        row.fill_(self._cache.pages)
        row[: len(start.pages)] = pages
        self._set_sampling(start.slot, start.sampling)

    def choice(self, slots: list[int], rows: Tensor) -> Choice | None:
        """None when all of them are greedy. `rows`: the same slots on the device."""
        if all(self._greedy[slot] for slot in slots):
            return None
        return self._choices.of(rows)

    def _set_sampling(self, slot: int, sampling: Sampling) -> None:
        self._greedy[slot] = sampling.temperature == 0
        self._choices.temperature[slot] = sampling.temperature
        self._choices.top_k[slot] = sampling.top_k
        self._choices.top_p[slot] = sampling.top_p
        self._choices.seed[slot] = 0 if sampling.seed is None else sampling.seed
