"""Computes the engine's steps: the model's side of the Runner that engine/core.py declares."""

import torch
from torch import Tensor

from headrace_server.config import EngineConfig
from headrace_server.engine.core import Outcome
from headrace_server.engine.limits import Limits
from headrace_server.engine.sequence import Chunk, Grant, Start, Step
from headrace_server.model.batch import Batch, unpack
from headrace_server.model.cache import KvCache, pages_for
from headrace_server.model.descriptor import DescriptorRing, Layout
from headrace_server.model.device import Device, Work
from headrace_server.model.masking import allowed
from headrace_server.model.sampler import choose
from headrace_server.model.slots import Slots
from headrace_server.model.transformer import Transformer
from headrace_server.request import Sampling

LONG_ENOUGH = 128  # tokens of a rehearsed prompt: nothing is compiled for a longer one


class ModelRunner:
    def __init__(
        self, transformer: Transformer, cache: KvCache, device: Device, config: EngineConfig, limits: Limits
    ) -> None:
        self._transformer = transformer
        self._device = device
        self._config = config
        self._limits = limits
        place = cache.keys.device
        self._slots = Slots(config.max_running, limits.max_context, config.page_size, cache.pages, place)
        self._ring = DescriptorRing(
            config.max_tokens_per_step,
            pages_for(limits.max_context, config),
            config.max_running,
            limits.vocab_size,
            place,
        )

    def launch(self, step: Step) -> Outcome:
        place, layout = self._ring.write(step)
        return self._device.launch(
            Work(
                copy_in=lambda: self._ring.send(place, layout),
                compute=lambda: self._forward(step.starts, place, layout),
            )
        )

    @torch.inference_mode()
    def logits(self, step: Step) -> Tensor:
        """float32 (chunks that sample, vocab): what `launch` chooses from. Not beside steps in flight."""
        place, layout = self._ring.write(step)
        self._ring.send(place, layout)
        return self._logits(step.starts, place, layout)[1]

    def warm_up(self) -> None:
        """Prefill and decode, alone and in full batches, greedy and sampled: no first request pays for a first time."""
        longest = min(self._limits.max_context - 1, self._config.max_tokens_per_step, LONG_ENOUGH)
        for sampling in (Sampling(), Sampling(temperature=1.0, top_k=2, top_p=0.5)):
            for prompt, requests in ((longest, 1), (1, 1), (1, self._config.max_running)):
                self._rehearse(prompt, min(requests, self._config.max_tokens_per_step), sampling)

    def _rehearse(self, prompt: int, requests: int, sampling: Sampling) -> None:
        """All of them on the same pages: nobody reads what they leave there."""
        slots = range(requests)
        starts = tuple(Start(slot, sampling, queue_wait=0.0) for slot in slots)
        pages = range(pages_for(prompt + 1, self._config))
        grants = tuple(Grant(slot, page, page) for slot in slots for page in pages)
        tokens = (0,) * prompt
        self.launch(Step(starts, grants, tuple(Chunk(slot, 0, tokens, samples=True) for slot in slots))).wait()
        self.launch(Step((), (), tuple(Chunk(slot, prompt, (), samples=True) for slot in slots))).wait()

    def _forward(self, starts: tuple[Start, ...], place: int, layout: Layout) -> Tensor:
        batch, logits = self._logits(starts, place, layout)
        if layout.masked:
            described = self._ring.read(place, layout)
            logits = allowed(logits, described.masks, described.masked_rows)
        slots, positions = batch.slots[batch.sampled_rows], batch.positions[batch.sampled_rows].long() + 1
        choice = self._slots.choice(layout.sampling_slots, slots)
        chosen = choose(logits, choice, positions)
        self._slots.keep(slots, positions, chosen)
        return chosen

    def _logits(self, starts: tuple[Start, ...], place: int, layout: Layout) -> tuple[Batch, Tensor]:
        check = self._config.check_gathers
        for start in starts:
            self._slots.start(start, check)
        batch = unpack(self._ring.read(place, layout), self._slots, check)
        return batch, self._transformer.logits(batch)
