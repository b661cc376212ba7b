"""From the hidden states of packed texts to a vector for each."""

import torch
from torch import Tensor

from headrace_server.embedding import Pooling
from headrace_server.model.encoder.texts import Texts


def pooled(hidden: Tensor, texts: Texts, pooling: Pooling) -> Tensor:
    """hidden (T, hidden) -> float32 (N, hidden)."""
    match pooling:
        case Pooling.CLS:
            return hidden[texts.bounds[:-1]].float()
        case Pooling.LAST:
            return hidden[texts.bounds[1:] - 1].float()
        case Pooling.MEAN:
            return torch.segment_reduce(hidden.float(), "mean", offsets=texts.bounds.long(), axis=0)
