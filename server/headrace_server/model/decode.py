"""Steps in which everybody decodes, at fixed addresses and in few sizes: a device can be given one in one piece.

Choosing is part of it where that takes the logits, a temperature and a seed. What some requests ask for besides
(filters, penalties, biases, logprobs, a grammar) has too many combinations: those steps end with `hidden`, and choose
one operation after the other.
"""

from functools import partial

import torch
from torch import Tensor

from headrace_server.model.batch import decoding
from headrace_server.model.graphs import DecodeGraphs, Record, StaticInput
from headrace_server.model.sampling_settings import GREEDY, Features
from headrace_server.model.sampling_state import SamplingState
from headrace_server.model.slots import Slots
from headrace_server.model.transformer import Transformer

CHOSEN_INSIDE = (GREEDY, Features(random=True))  # the second one's steps may hold greedy rows, too


class Decode:
    """Its results lie on the device, and are valid until the next call; the next call may be enqueued before."""

    def __init__(
        self, transformer: Transformer, slots: Slots, sampling: SamplingState, max_running: int, record: Record
    ) -> None:
        """Records all of it: seconds."""
        self._transformer = transformer
        self._slots = slots
        self._sampling = sampling
        place = slots.pages.device
        numbers = [torch.tensor(number, dtype=torch.int32, device=place) for number in (slots.nobodys, 0)]
        inputs = tuple(StaticInput(padding.repeat(max_running), padding) for padding in numbers)
        self._slot, self._position = (each.held for each in inputs)
        self._kept = transformer.no_hidden(max_running)
        self._chosen = torch.zeros(max_running, dtype=torch.int64, device=place)
        self._choosing = {
            features: DecodeGraphs(inputs, partial(self._choose, features), record) for features in CHOSEN_INSIDE
        }
        self._forward = DecodeGraphs(inputs, self._keep_hidden, record)

    def chooses(self, features: Features) -> bool:
        return features in self._choosing

    def choose(self, slot: Tensor, position: Tensor, features: Features) -> Tensor:
        """slot and position int32 (rows) -> int64 (rows): what follows each, which its slot holds already.

        A copy: what reads it on another stream need not hurry.
        """
        self._choosing[features].launch((slot, position))
        return self._chosen[: len(slot)].clone()

    def padding(self, rows: int) -> int:
        """Rows that are computed besides these."""
        return self._forward.size(rows) - rows

    def hidden(self, slot: Tensor, position: Tensor) -> Tensor:
        """(rows, hidden): what Transformer.hidden gives for them."""
        self._forward.launch((slot, position))
        return self._kept[: len(slot)]

    def _choose(self, features: Features, rows: int) -> None:
        slots, positions = self._slot[:rows].long(), self._position[:rows].long() + 1
        logits = self._transformer.logits(self._of(rows))
        chosen = self._sampling.choose(logits, slots, features, positions)
        self._slots.keep(slots, positions, chosen.ids)
        self._chosen[:rows] = chosen.ids

    def _keep_hidden(self, rows: int) -> None:
        self._kept[:rows] = self._of(rows)

    def _of(self, rows: int) -> Tensor:
        return self._transformer.hidden(decoding(self._slot[:rows], self._position[:rows], self._slots))
