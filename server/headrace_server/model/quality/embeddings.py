"""How near the vectors of two embedders are, and whether they find the same neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from headrace_server.config import ServerConfig
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import EmbeddingQuality
from headrace_server.model.encoder.loading import load_embedder

AT_ONCE = 32  # texts of a batch
Vectors = NDArray[np.float32]  # (texts, dimensions)


def compared(
    config: ServerConfig, base: ServerConfig, texts: Sequence[str], k: int, tell: Callable[[str], None]
) -> EmbeddingQuality:
    """Raises ModelRefused."""
    if len(texts) <= k:
        raise ModelRefused(f"recall at {k} needs more than {k} texts, the golden file has {len(texts)}")
    ours, theirs = (_normed(_vectors(one, texts, tell)) for one in (config, base))
    if ours.shape != theirs.shape:
        raise ModelRefused(f"vectors of {ours.shape[1]} and of {theirs.shape[1]} numbers cannot be compared")
    cosines = (ours * theirs).sum(axis=1)
    return EmbeddingQuality(
        texts=len(texts),
        cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        recall_at_k=recall(ours, theirs, k),
        k=k,
    )


def recall(ours: Vectors, theirs: Vectors, k: int) -> float:
    """Of vectors of length 1: the share of each text's k nearest others by `theirs` that are so by `ours`."""
    found, right = _nearest(ours, k), _nearest(theirs, k)
    shared = [len(set(one) & set(other)) for one, other in zip(found.tolist(), right.tolist(), strict=True)]
    return sum(shared) / (k * len(shared))


def _nearest(vectors: Vectors, k: int) -> NDArray[np.intp]:
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    return np.argsort(-alike, axis=1, kind="stable")[:, :k]


def _vectors(config: ServerConfig, texts: Sequence[str], tell: Callable[[str], None]) -> Vectors:
    tell(f"loading {config.model}")
    loaded = load_embedder(config, lambda phase: None)
    ids = loaded.tokens.encode(list(texts), truncate=True)
    batches = [ids[begin : begin + AT_ONCE] for begin in range(0, len(ids), AT_ONCE)]
    return np.concatenate([loaded.lanes[0].launch(batch).wait().vectors for batch in batches])


def _normed(vectors: Vectors) -> Vectors:
    normed: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed
