"""How each running request samples, one row a slot on the device, and what its text holds so far.

A start is two row copies for the settings. Tables that only some requests need (biases, held-back stop tokens, counts)
are made when the first such request comes.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace_server.model.sampler import Chosen, Mask, joined, sample
from headrace_server.model.sampling_settings import (
    FLOATS,
    GREEDY,
    INTS,
    Additions,
    Counts,
    Features,
    Settings,
    together,
)
from headrace_server.request import MOST_BIASES, MOST_STOP_TOKENS, Sampling


class SamplingState:
    """Not for several threads: it belongs to the one that launches the model."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device, *, by_row: bool = False) -> None:
        """`by_row`: each row is chosen for by itself, so that its neighbours cannot move a sum over the vocabulary."""
        self._by_row = by_row
        self._vocab_size = vocab_size
        self._device = device
        self._features = [GREEDY] * slots
        self._floats = torch.zeros((slots, FLOATS), device=device)
        self._ints = torch.zeros((slots, INTS), dtype=torch.int64, device=device)
        self._biases: Additions | None = None
        self._stops: Additions | None = None
        self._counts: Counts | None = None

    def start(
        self,
        slot: int,
        tokens: Sequence[int],
        prompt_tokens: int,
        sampling: Sampling,
        stop_token_ids: Collection[int] = (),
    ) -> None:
        """The slot is another request's from now on. `tokens`: prompt, after a preemption also the answer so far."""
        before, features = self._features[slot], Features.of(sampling)
        self._features[slot] = features
        self._floats[slot].copy_(self._sent(_floats(sampling)), non_blocking=True)
        self._ints[slot].copy_(self._sent(_ints(sampling, prompt_tokens, self._vocab_size)), non_blocking=True)
        if features.biases:
            self._biases = self._biases or self._additions(MOST_BIASES)
            ids, values = zip(*sampling.logit_bias, strict=True)
            self._set(self._biases, slot, ids, values)
        elif before.biases and self._biases:
            self._biases.values[slot].zero_()  # a neighbour's bias must not bring the former request's back
        if features.min_tokens:
            self._stops = self._stops or self._additions(MOST_STOP_TOKENS)
            self._set(self._stops, slot, sorted(stop_token_ids), [float("-inf")] * len(stop_token_ids))
        if features.penalties:
            self._counts = self._counts or self._no_counts()
            self._count(self._counts, slot, np.asarray(tokens, dtype=np.int64), prompt_tokens)

    def features(self, slots: Sequence[int]) -> Features:
        """What a step that samples for these slots needs."""
        return together(self._features[slot] for slot in slots)

    def choose(
        self, logits: Tensor, rows: Tensor, features: Features, positions: Tensor, allowed: Mask | None = None
    ) -> Chosen:
        """logits float32 (S, vocab); rows int64 (S): the slots, on the device; positions int64 (S), of what is chosen.

        `features` are those of the same slots. The choice is counted for the penalties of the next one.
        """
        if self._by_row and len(rows) > 1:
            return self._choose_by_row(logits, rows, features, positions, allowed)
        chosen = sample(logits, self._settings(rows, features), features, positions, allowed)
        if features.penalties and self._counts is not None:
            places = rows * self._vocab_size + chosen.ids
            self._counts.answer.view(-1).scatter_add_(0, places, torch.ones_like(places, dtype=torch.int32))
        return chosen

    def _choose_by_row(
        self, logits: Tensor, rows: Tensor, features: Features, positions: Tensor, allowed: Mask | None
    ) -> Chosen:
        """Waits for the device, once for each row."""
        masked = None if allowed is None else allowed(logits)
        found = []
        for row, slot in enumerate(rows.tolist()):
            one = slice(row, row + 1)
            own = replace(self._features[slot], most_logprobs=features.most_logprobs)
            mask = None if masked is None else partial(_instead, masked[one])
            found.append(self.choose(logits[one], rows[one], own, positions[one], mask))
        return joined(found)

    def _settings(self, rows: Tensor, features: Features) -> Settings:
        biases, stops, counts = self._biases, self._stops, self._counts
        return Settings(
            self._floats[rows],
            self._ints[rows],
            Additions(biases.ids[rows], biases.values[rows]) if biases and features.biases else None,
            Additions(stops.ids[rows], stops.values[rows]) if stops and features.min_tokens else None,
            Counts(counts.answer[rows], counts.prompt[rows]) if counts and features.penalties else None,
        )

    def _additions(self, places: int) -> Additions:
        shape = (len(self._features), places)
        return Additions(
            torch.zeros(shape, dtype=torch.int64, device=self._device), torch.zeros(shape, device=self._device)
        )

    def _no_counts(self) -> Counts:
        shape = (len(self._features), self._vocab_size)
        return Counts(
            torch.zeros(shape, dtype=torch.int32, device=self._device),
            torch.zeros(shape, dtype=torch.bool, device=self._device),
        )

    def _set(self, table: Additions, slot: int, ids: Sequence[int], values: Sequence[float]) -> None:
        row_ids, row_values = np.zeros(table.ids.shape[1], np.int64), np.zeros(table.ids.shape[1], np.float32)
        row_ids[: len(ids)] = ids
        row_values[: len(values)] = values
        table.ids[slot].copy_(self._sent(row_ids), non_blocking=True)
        table.values[slot].copy_(self._sent(row_values), non_blocking=True)

    def _count(self, counts: Counts, slot: int, tokens: NDArray[np.int64], prompt_tokens: int) -> None:
        on_device = self._sent(tokens).to(self._device, non_blocking=True)
        prompt, answer = on_device[:prompt_tokens], on_device[prompt_tokens:]
        counts.prompt[slot].zero_().index_fill_(0, prompt, True)
        counts.answer[slot].zero_().scatter_add_(0, answer, torch.ones_like(answer, dtype=torch.int32))

    def _sent(self, row: NDArray[Any]) -> Tensor:
        """From pinned memory where that matters: a copy out of pageable memory may wait for the device."""
        on_host = torch.from_numpy(row)
        return on_host.pin_memory() if self._device.type == "cuda" else on_host


def _instead(masked: Tensor, _: Tensor) -> Tensor:
    return masked


def _floats(sampling: Sampling) -> NDArray[np.float32]:
    """In the order of the columns that sampling_settings.py names."""
    return np.array(
        [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        ],
        dtype=np.float32,
    )


def _ints(sampling: Sampling, prompt_tokens: int, vocab_size: int) -> NDArray[np.int64]:
    """Likewise. A top-k of the whole vocabulary is none."""
    top_k = sampling.top_k if sampling.top_k < vocab_size else 0
    seed = 0 if sampling.seed is None else sampling.seed
    return np.array([seed, top_k, prompt_tokens + sampling.min_tokens], dtype=np.int64)
