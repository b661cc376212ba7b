"""Texts as an encoder sees them: the tokens of all of them, one after the other, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Texts:
    """T tokens of N texts."""

    ends: tuple[int, ...]  # (N + 1): 0, and where each text ends
    longest: int  # tokens
    numbers: Tensor  # int32 (2 * T + N + 1): token ids, positions from 0 in each text, `ends`

    @property
    def tokens(self) -> int:
        return self.ends[-1]

    @property
    def token_ids(self) -> Tensor:
        return self.numbers[: self.tokens]

    @property
    def positions(self) -> Tensor:
        return self.numbers[self.tokens : 2 * self.tokens]

    @property
    def bounds(self) -> Tensor:
        return self.numbers[2 * self.tokens :]

    def on(self, device: torch.device) -> "Texts":
        """Copied there on the current stream."""
        return replace(self, numbers=self.numbers.to(device, non_blocking=True))


def packed(texts: Sequence[Sequence[int]], *, pinned: bool = False) -> Texts:
    """On the host. `pinned`: in memory that a GPU copies from by itself."""
    lengths = [len(text) for text in texts]
    ends = (0, *accumulate(lengths))
    tokens = ends[-1]
    numbers = torch.empty(2 * tokens + len(ends), dtype=torch.int32, pin_memory=pinned)
    written = numbers.numpy()
    np.concatenate([np.asarray(text, dtype=np.int32) for text in texts], out=written[:tokens])
    written[tokens : 2 * tokens] = np.arange(tokens, dtype=np.int32) - np.repeat(ends[:-1], lengths)
    written[2 * tokens :] = ends
    return Texts(ends, max(lengths), numbers)
