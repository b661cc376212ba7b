"""Computes the engine's steps: the model's side of the Runner that engine/core.py declares."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from headrace_server.config import EngineConfig
from headrace_server.engine.limits import Limits
from headrace_server.engine.sequence import Chunk, Grant, Start, Step
from headrace_server.model.batch import unpack
from headrace_server.model.cache import KvCache, pages_for
from headrace_server.model.decode import Decode
from headrace_server.model.descriptor import Described, DescriptorRing, Layout
from headrace_server.model.device import Device, Work
from headrace_server.model.drafting import Drafter
from headrace_server.model.logprobs import LogprobRows, logprobs, logprobs_by_row, together
from headrace_server.model.masking import allowed
from headrace_server.model.outputs import Outcome, Outputs
from headrace_server.model.recording import TorchRecorder
from headrace_server.model.sampling_settings import Features
from headrace_server.model.sampling_state import SamplingState
from headrace_server.model.slots import Slots
from headrace_server.model.transformer import Transformer
from headrace_server.request import Sampling

SCORED_AT_ONCE = 128  # rows of logits
LONG_ENOUGH = 128  # tokens of a rehearsed prompt: nothing is compiled for a longer one
log = logging.getLogger(__name__)


class ModelRunner:
    def __init__(
        self,
        transformer: Transformer,
        cache: KvCache,
        device: Device,
        config: EngineConfig,
        limits: Limits,
        *,
        captures: bool = False,
        drafter: Drafter | None = None,
    ) -> None:
        """`captures`: `warm_up` records decode steps, which are replayed from then on."""
        self._drafter = drafter
        self.recorder = TorchRecorder()
        self._cache = cache
        self._caches = (cache,) if drafter is None else (cache, drafter.cache)
        self._transformer = transformer
        self._device = device
        self._config = config
        self._limits = limits
        place = cache.keys.device
        self.captures = captures
        self._decode: Decode | None = None
        self._slots = Slots(config.max_running, limits.max_context, config.page_size, cache.pages, place)
        self._sampling = SamplingState(config.max_running + 1, limits.vocab_size, place, by_row=config.batch_invariant)
        self._ring = DescriptorRing(
            config.max_tokens_per_step,
            pages_for(limits.max_context, config),
            config.max_running,
            limits.vocab_size,
            place,
        )

    def launch(self, step: Step) -> Outcome:
        place, layout = self._ring.write(step)
        work = Work(
            copy_in=lambda: self._ring.send(place, layout),
            compute=lambda: self._forward(step.starts, self._ring.read(place, layout)).tensors(),
        )
        return Outcome(self._device.launch(work), layout, self._padding(layout))

    def _padding(self, layout: Layout) -> int:
        if self._decode is None or not self._is_captured(layout):
            return self._transformer.padding(layout.tokens)
        return self._decode.padding(layout.tokens)

    def _is_captured(self, layout: Layout) -> bool:
        """Guesses can make more rows of a step than requests run; which rows are an adapter's is new in each step."""
        return not layout.fills and not layout.adapted and layout.tokens <= self._config.max_running

    @torch.inference_mode()
    def logits(self, step: Step) -> Tensor:
        """float32 (chunks that sample, vocab): what `launch` chooses from. Not beside steps in flight."""
        place, layout = self._ring.write(step)
        self._ring.send(place, layout)
        described = self._ring.read(place, layout)
        return self._transformer.logits(self._hidden(step.starts, described)[described.sampled_rows])

    @torch.inference_mode()
    def all_logits(self, step: Step) -> Iterator[Tensor]:
        """float32 (rows, vocab) on the host, a few rows at a time: of every token of the step. Likewise."""
        place, layout = self._ring.write(step)
        self._ring.send(place, layout)
        hidden = self._hidden(step.starts, self._ring.read(place, layout))
        for some in torch.split(hidden, SCORED_AT_ONCE):
            yield self._transformer.logits(some).cpu()

    def sleep(self) -> None:
        """Gives the KV cache's memory back. No step may be in flight, and none may follow before `wake_up`."""
        self._decode = None  # what was captured has the cache's address in it
        for cache in self._caches:
            cache.free()
        if self._cache.keys.is_cuda:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def wake_up(self) -> None:
        """Seconds where decode steps have to be captured again. Raises MemoryError, and sleeps on."""
        try:
            for cache in self._caches:
                cache.take()
        except RuntimeError as fault:  # torch's words for it differ by device
            for cache in self._caches:
                cache.free()
            raise MemoryError(str(fault)) from fault
        if self.captures:
            self.capture()

    def warm_up(self) -> None:
        """Prefill and decode, alone and in full batches, greedy and sampled: no first request pays for a first time."""
        if self.captures and self._decode is None:
            self.capture()
        longest = min(self._limits.max_context - 1, self._config.max_tokens_per_step, LONG_ENOUGH)
        if self.captures:
            self._rehearse_lengths(longest)
        for sampling in (Sampling(), Sampling(temperature=1.0, top_k=2, top_p=0.5)):
            for prompt, requests in ((longest, 1), (1, 1), (1, self._config.max_running)):
                self._rehearse(prompt, min(requests, self._config.max_tokens_per_step), sampling)

    def _rehearse_lengths(self, longest: int) -> None:
        """Kernels for GPUs are compiled at first use, for tiles as high as a power of two; see paged_attention.py."""
        for power in range(longest.bit_length()):
            self._rehearse(1 << power, 1, Sampling())

    @torch.inference_mode()
    def capture(self) -> None:
        """Records decode steps, which are replayed from then on."""
        began = time.perf_counter()
        most, record = self._config.max_running, self._device.recorder()
        self._decode = Decode(self._transformer, self._slots, self._sampling, most, record)
        log.info("decode steps of up to %d requests captured in %.1f s", most, time.perf_counter() - began)

    def _rehearse(self, prompt: int, requests: int, sampling: Sampling) -> None:
        """All of them on the same pages: nobody reads what they leave there."""
        slots = range(requests)
        tokens = (0,) * prompt
        starts = tuple(Start(slot, tokens, prompt, sampling, frozenset(), queue_wait=0.0) for slot in slots)
        pages = range(pages_for(prompt + 1, self._config))
        grants = tuple(Grant(slot, page, page) for slot in slots for page in pages)
        self.launch(Step(starts, grants, tuple(Chunk(slot, 0, tokens, samples=True) for slot in slots))).wait()
        self.launch(Step((), (), tuple(Chunk(slot, prompt, (), samples=True) for slot in slots))).wait()

    def _forward(self, starts: tuple[Start, ...], step: Described) -> Outputs:
        for start in starts:
            self._sampling.start(start.slot, start.tokens, start.prompt_tokens, start.sampling, start.stop_token_ids)
        features = self._sampling.features(step.layout.sampling_slots)
        fed = self._drafted(step, features)
        outputs = self._chosen(starts, step, features)
        return outputs if fed is None else replace(outputs, fed=fed)

    def _drafted(self, step: Described, features: Features) -> Tensor | None:
        """int32 (rows that decode): what is fed there, if the draft model guessed any of it."""
        if self._drafter is None:
            return None
        self._slots.apply(step)
        with self.recorder.range("draft"):
            self._drafter.follow(step, self._slots, self._sampling, features)
        if step.layout.drafting is None:
            return None
        slot, position, _ = step.rows[:, : step.layout.decoding]
        return self._slots.inputs(slot, position, check=False)

    def _chosen(self, starts: tuple[Start, ...], step: Described, features: Features) -> Outputs:
        if self._decode is None or not self._is_captured(step.layout):
            return self._choose(self._hidden(starts, step), features, step)
        self._slots.apply(step)
        slot, position, _ = step.rows
        if step.layout.masked or not self._decode.chooses(features):
            return self._choose(self._decode.hidden(slot, position), features, step)
        with self.recorder.range("forward"):  # and sample, in one piece
            return Outputs(self._decode.choose(slot, position, features), None, step.targets, None)

    def _hidden(self, starts: tuple[Start, ...], step: Described) -> Tensor:
        """(tokens, hidden)."""
        check = self._config.check_gathers
        if check:
            for start in starts:
                self._slots.start(start)
        with self.recorder.range("forward"):
            return self._transformer.hidden(unpack(step, self._slots, check))

    def _choose(self, hidden: Tensor, features: Features, step: Described) -> Outputs:
        slot, position, _ = step.rows
        slots, positions = slot[step.sampled_rows].long(), position[step.sampled_rows].long() + 1
        mask = partial(allowed, masks=step.masks, rows=step.masked_rows) if step.layout.masked else None
        with self.recorder.range("sample"):
            logits = self._transformer.logits(hidden[step.sampled_rows])
            chosen = self._sampling.choose(logits, slots, features, positions, mask)
            self._slots.keep(slots, positions, chosen.ids)
            return Outputs(chosen.ids, chosen.logprobs, step.targets, self._scores(hidden, step))

    def _scores(self, hidden: Tensor, step: Described) -> LogprobRows | None:
        """Few rows at a time: the logits of a whole prompt would be as large as the weights of a small model."""
        if not step.layout.scored:
            return None
        rows = torch.cat([hidden[scored.row : scored.row + scored.tokens] for scored in step.layout.scored])
        top = max(scored.top for scored in step.layout.scored)
        some_at_once = zip(torch.split(rows, SCORED_AT_ONCE), torch.split(step.targets, SCORED_AT_ONCE), strict=True)
        of = logprobs_by_row if self._config.batch_invariant else logprobs
        return together([of(self._transformer.logits(some), targets.long(), top) for some, targets in some_at_once])
