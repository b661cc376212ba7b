"""Computes batches of texts on one or several lanes: the model's side of the Lane that engine/embed_lanes.py declares.

A lane is what computes one batch after the other: a GPU, or one thread of a CPU, or all its threads together. A small
model gets a lane for each thread: two threads that share each product wait for one another some hundred times a batch,
and two that each have a batch never do.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from headrace_server.config import EngineConfig
from headrace_server.engine.embed_lanes import Computed
from headrace_server.model.cpu.threads import SMALL, settle_threads
from headrace_server.model.device import CpuDevice, CudaDevice, Device, Launched, Work
from headrace_server.model.encoder.texts import Texts, packed
from headrace_server.model.row_sizes import ANY, RowSizes

log = logging.getLogger(__name__)
Pool = Callable[[Tensor, Texts], Tensor]  # hidden states (T, hidden) -> float32 (N, dimensions), a row for each text


class TextModel(Protocol):
    def hidden(self, texts: Texts) -> Tensor:
        """(T, hidden): the last layer's, of every token. Called by several lanes at once."""


@dataclass(frozen=True, slots=True)
class EncoderLane:
    encoder: TextModel
    pool: Pool
    device: Device
    place: torch.device
    rows: RowSizes = ANY  # with how many tokens it computes

    def launch(self, texts: Sequence[Sequence[int]]) -> "Outcome":
        spare = self._spare(texts)
        host = packed([*texts, *spare], pinned=self.place.type == "cuda")
        sent: list[Texts] = []
        work = Work(
            copy_in=lambda: sent.append(host.on(self.place)),
            compute=lambda: (self._vectors(sent[0]),),
        )
        return Outcome(self.device.launch(work), len(texts), sum(map(len, spare)))

    def _spare(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Texts for nobody, none longer than the others, up to the next size."""
        tokens, longest = sum(map(len, texts)), max(map(len, texts))
        spare = self.rows.at_least(tokens) - tokens
        return [[0] * min(longest, spare - done) for done in range(0, spare, longest)]

    def _vectors(self, texts: Texts) -> Tensor:
        return self.pool(self.encoder.hidden(texts), texts)


@dataclass(frozen=True, slots=True)
class Outcome:
    launched: Launched
    texts: int
    padded: int  # tokens

    def wait(self) -> Computed:
        done = self.launched.wait()
        return Computed(done.tensors[0].numpy()[: self.texts], done.busy, done.gap, self.padded)


def threads_of_lanes(config: EngineConfig, parameters: int, threads: int) -> tuple[int, ...]:
    """How many threads each lane of a CPU has. `threads`: torch's own choice, which OMP_NUM_THREADS sets."""
    total = config.cpu_threads or (len(config.cpu_cores) if config.cpu_cores else threads)
    return (1,) * total if parameters < SMALL else (total,)


def lanes(
    encoder: TextModel, pool: Pool, place: torch.device, config: EngineConfig, parameters: int, *, rows: RowSizes
) -> tuple[EncoderLane, ...]:
    """Raises ModelRefused for cores that are not ours."""
    if place.type == "cuda":
        return (EncoderLane(encoder, pool, CudaDevice(place), place, rows),)
    counts = threads_of_lanes(config, parameters, torch.get_num_threads())
    settings = [replace(config, cpu_threads=count) for count in counts]
    settle_threads(settings[0], parameters)  # here, too: a refusal has to come now
    log.info("%d lanes, of %s threads", len(counts), ", ".join(map(str, counts)))
    return tuple(
        EncoderLane(encoder, pool, CpuDevice(lambda one=one: settle_threads(one, parameters)), place, rows)  # type: ignore[misc]
        for one in settings
    )
