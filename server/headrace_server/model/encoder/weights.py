"""An encoder's weights as its forward pass uses them, and which tensors of a checkpoint they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.checkpoint import Checkpoint, Read, Shapes, files_in
from headrace_server.model.encoder.shape import EncoderShape
from headrace_server.model.projection import Layout, PlainProjection, Projection

# In checkpoints, and not read: buffers that follow from config.json, the pooler, which no pooling here goes through.
UNREAD = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True, slots=True)
class Norm:
    """Of LayerNorm. float32, whatever the products are in."""

    weight: Tensor  # (hidden)
    bias: Tensor  # (hidden)


@dataclass(frozen=True, slots=True)
class PairHead:
    """From the first token's state to a score: tanh(dense), then a product. float32, as norms are."""

    dense: PlainProjection  # (hidden -> hidden)
    out: PlainProjection  # (hidden -> 1)


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    qkv: Projection  # in one multiplication
    out: Projection
    attention_norm: Norm
    up: Projection
    down: Projection
    norm: Norm


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    words: Tensor  # (vocab, hidden)
    # float32 (max_tokens, hidden): of a text's first token, its second, and so on. The type 0, which all tokens have,
    # is added in.
    positions: Tensor
    norm: Norm
    layers: tuple[EncoderLayer, ...]
    types: Tensor | None = None  # float32 (types, hidden): what each type of tokens differs from the first one by
    head: PairHead | None = None  # None: the model embeds


def count_parameters(shape: EncoderShape) -> int:
    return sum(math.prod(size) for size in _expected(shape).values())


def count_matrix_weights(shape: EncoderShape) -> int:
    """Of the layers: what is multiplied with each token."""
    return shape.layers * (4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size)


def load_weights(
    directory: Path, shape: EncoderShape, device: torch.device, dtype: torch.dtype, layout: Layout
) -> EncoderWeights:
    """Raises ModelRefused, naming what is missing, too much, or of the wrong shape."""
    expected = _expected(shape)
    checkpoint = Checkpoint(files_in(directory), expected)
    _check_names(directory, set(checkpoint.files), set(expected), shape.prefix)

    body = shape.prefix
    with checkpoint.reading(device, dtype) as read:
        words = read(f"{body}embeddings.word_embeddings.weight")
    with checkpoint.reading(device, torch.float32) as exact:
        table = exact(f"{body}embeddings.position_embeddings.weight")[shape.first_position :]
        types = exact(f"{body}embeddings.token_type_embeddings.weight")
        norm = _norm(exact, f"{body}embeddings.LayerNorm")
        head = _head(exact, *_head_names(shape)) if shape.judges else None
    layers = []
    for index in range(shape.layers):
        with checkpoint.reading(device, dtype) as read, checkpoint.reading(device, torch.float32) as exact:
            layers.append(_layer(f"{body}encoder.layer.{index}", layout, read, exact))
    differences = types - types[0] if shape.judges else None
    return EncoderWeights(words, table + types[0], norm, tuple(layers), differences, head)


def _head_names(shape: EncoderShape) -> tuple[str, str]:
    """BERT's classifier goes through its pooler; RoBERTa's brings its own."""
    return (
        ("bert.pooler.dense", "classifier") if shape.prefix == "bert." else ("classifier.dense", "classifier.out_proj")
    )


def _head(read: Read, *names: str) -> PairHead:
    return PairHead(*(PlainProjection(read(f"{name}.weight"), read(f"{name}.bias")) for name in names))


def _layer(prefix: str, layout: Layout, read: Read, exact: Read) -> EncoderLayer:
    def projection(*names: str) -> Projection:
        return layout.projection(
            read(*(f"{prefix}.{name}.weight" for name in names)), read(*(f"{prefix}.{name}.bias" for name in names))
        )

    return EncoderLayer(
        qkv=projection("attention.self.query", "attention.self.key", "attention.self.value"),
        out=projection("attention.output.dense"),
        attention_norm=_norm(exact, f"{prefix}.attention.output.LayerNorm"),
        up=projection("intermediate.dense"),
        down=projection("output.dense"),
        norm=_norm(exact, f"{prefix}.output.LayerNorm"),
    )


def _norm(read: Read, name: str) -> Norm:
    return Norm(read(f"{name}.weight"), read(f"{name}.bias"))


def _expected(shape: EncoderShape) -> Shapes:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    body = shape.prefix
    expected: Shapes = {
        f"{body}embeddings.word_embeddings.weight": (shape.vocab_size, hidden),
        f"{body}embeddings.position_embeddings.weight": (shape.positions, hidden),
        f"{body}embeddings.token_type_embeddings.weight": (shape.types, hidden),
    }
    linears: Mapping[str, tuple[int, int]] = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    norms = [f"{body}embeddings.LayerNorm"]
    for prefix in (f"{body}encoder.layer.{index}" for index in range(shape.layers)):
        for name, size in linears.items():
            expected |= {f"{prefix}.{name}.weight": size, f"{prefix}.{name}.bias": size[:1]}
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
    for name in norms:
        expected |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
    if shape.judges:
        for name, rows in zip(_head_names(shape), (hidden, 1), strict=True):
            expected |= {f"{name}.weight": (rows, hidden), f"{name}.bias": (rows,)}
    return expected


def _check_names(directory: Path, found: set[str], expected: set[str], prefix: str) -> None:
    if missing := sorted(expected - found):
        raise ModelRefused(f"{directory} lacks {len(missing)} tensors that config.json asks for: {_some(missing)}")
    if surplus := sorted(found - expected - {prefix + name for name in UNREAD}):
        raise ModelRefused(
            f"{directory} holds {len(surplus)} tensors that config.json has no place for: {_some(surplus)}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
