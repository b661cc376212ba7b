"""Computes the engine's steps: the model's side of the Runner that engine/loop.py declares."""

import torch
from torch import Tensor

from headrace_server.config import EngineConfig
from headrace_server.engine.limits import Limits
from headrace_server.engine.sequence import Chunk, Start, Step
from headrace_server.model.batch import Batch, pack
from headrace_server.model.cache import KvCache, pages_for
from headrace_server.model.sampler import choose
from headrace_server.model.slots import Slots
from headrace_server.model.transformer import Transformer
from headrace_server.request import Sampling


class ModelRunner:
    def __init__(self, transformer: Transformer, cache: KvCache, config: EngineConfig, limits: Limits) -> None:
        self._transformer = transformer
        self._cache = cache
        self._config = config
        self._limits = limits
        self._slots = Slots(config.max_running, pages_for(limits.max_context, config), cache)

    @torch.inference_mode()
    def forward(self, step: Step) -> list[int]:
        """One new token id per chunk that samples. Blocks until the device has it."""
        batch, logits = self._logits(step)
        choice = self._slots.choice(batch.slots_that_sample, batch.sampled_slots)
        chosen = choose(logits, choice, batch.positions[batch.sampled_rows] + 1)
        self._slots.last_token[batch.sampled_slots] = chosen
        ids: list[int] = chosen.tolist()
        return ids

    @torch.inference_mode()
    def logits(self, step: Step) -> Tensor:
        """float32 (chunks that sample, vocab): what `forward` chooses from."""
        return self._logits(step)[1]

    def warm_up(self) -> None:
        """Prefill and decode, alone and in full batches, greedy and sampled: no first request pays for a first time."""
        longest = min(self._limits.max_context - 1, self._config.max_tokens_per_step)
        for sampling in (Sampling(), Sampling(temperature=1.0, top_k=2, top_p=0.5)):
            for prompt, requests in ((longest, 1), (1, 1), (1, self._config.max_running)):
                self._rehearse(prompt, min(requests, self._config.max_tokens_per_step), sampling)

    def _rehearse(self, prompt: int, requests: int, sampling: Sampling) -> None:
        """All of them on the same pages: what is written there is cleared when a request gets them."""
        pages = tuple(range(pages_for(prompt + 1, self._config)))
        slots = range(requests)
        starts = tuple(Start(slot, pages, sampling, queue_wait=0.0) for slot in slots)
        tokens = (0,) * prompt
        self.forward(Step(starts, tuple(Chunk(slot, 0, tokens, samples=True) for slot in slots)))
        self.forward(Step((), tuple(Chunk(slot, prompt, (), samples=True) for slot in slots)))

    def _logits(self, step: Step) -> tuple[Batch, Tensor]:
        for start in step.starts:
            self._slots.start(start)
        batch = pack(step, self._slots, self._cache.page_size)
        return batch, self._transformer.logits(batch, self._cache)
