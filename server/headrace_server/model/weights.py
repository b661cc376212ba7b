"""The weights as the forward pass uses them, and which tensors of a checkpoint they are."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.checkpoint import Checkpoint, Read, Shapes, files_in
from headrace_server.model.projection import Gated, Layout, LayoutOf, PlainProjection, Projection
from headrace_server.model.quantisation import HEAD, Quantisation, check_layers
from headrace_server.model.quantised import Quantised, dtypes_stored, from_stored, joined, quantised, shapes_stored
from headrace_server.model.row_sizes import RowSizes

BODY = "model."  # before the names of all tensors but the output matrix
EMBEDDING = "model.embed_tokens.weight"
HEAD_WEIGHT = f"{HEAD}.weight"
RECOMPUTED = "rotary_emb.inv_freq"  # buffers in old checkpoints; follows from config.json


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: Tensor  # (hidden)
    qkv: Projection  # q, k and v in one multiplication
    qk_norm: Tensor | None  # (heads + kv_heads, head_dim): query heads, then key heads
    out: Projection
    mlp_norm: Tensor  # (hidden)
    gated: Gated
    down: Projection


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Tensor  # (vocab, hidden)
    layers: tuple[Layer, ...]
    norm: Tensor  # (hidden)
    head: Projection
    rows: RowSizes  # of a step


def count_parameters(shape: Architecture) -> int:
    """A tied head counts once."""
    return sum(math.prod(size) for size in expected_shapes(shape).values())


def count_matrix_weights(shape: Architecture) -> int:
    """Of the layers: what is multiplied with each token. Without norms, biases, embedding and output matrix."""
    layers = (size for name, size in expected_shapes(shape).items() if name.startswith("model.layers."))
    return sum(math.prod(size) for size in layers if len(size) == 2)


def load_weights(
    directory: Path,
    shape: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    layout: Layout,
    *,
    fewer_bits: "FewerBits | None" = None,
    body: bool = False,
) -> Weights:
    """`layout`: of all matrices, or of those that `fewer_bits` leaves as they are.

    `body`: hidden states are all that is wanted. The output matrix may be missing, and so may the first part of each
    name, as it is where a model was saved without one.

    Raises ModelRefused, naming what is missing, too much, or of the wrong shape.
    """
    shape = replace(shape, tied=True) if body else shape
    files, prefix = files_in(directory), ""
    if body and "embed_tokens.weight" in files:
        files, prefix = {f"{BODY}{name}": path for name, path in files.items()}, BODY
    checkpoint = _checkpoint(files, prefix, shape, fewer_bits)
    check_names(directory, set(checkpoint.files), set(checkpoint.shapes), shape)

    def alone(name: str) -> Tensor:
        with checkpoint.reading(device, dtype) as read:
            return read(name)

    def layer(index: int) -> Layer:
        name = f"model.layers.{index}"
        with checkpoint.reading(device, dtype) as read:
            if fewer_bits is None or name in fewer_bits.how.excluded:
                return _layer(name, shape, layout, read, read)
            with _matrices(checkpoint, device, fewer_bits) as matrix:
                return _layer(name, shape, fewer_bits.layout, read, matrix)

    def head() -> Projection:
        if body:  # which asks for nothing of it
            return PlainProjection(embedding, None)
        if fewer_bits is None or HEAD in fewer_bits.how.excluded:
            return layout.projection(embedding if shape.tied else alone(HEAD_WEIGHT), None)
        with _matrices(checkpoint, device, fewer_bits) as matrix:
            name = HEAD_WEIGHT if fewer_bits.stored or not shape.tied else EMBEDDING
            return fewer_bits.layout.projection(matrix(name), None)

    embedding = alone(EMBEDDING)
    return Weights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(shape.layers)),
        norm=alone("model.norm.weight"),
        head=head(),
        rows=(fewer_bits.layout if fewer_bits else layout).rows,
    )


@dataclass(frozen=True, slots=True)
class FewerBits:
    """Matrices that are not kept as the checkpoint's numbers."""

    how: Quantisation
    layout: LayoutOf[Quantised]
    stored: bool  # already so in the files, by `headrace quantize`


Matrix = TypeVar("Matrix")


@contextmanager
def _matrices(
    checkpoint: Checkpoint, device: torch.device, fewer_bits: FewerBits
) -> Iterator[Callable[..., Quantised]]:
    """Names -> their matrices in one, joined by rows. Raises ModelRefused."""
    if fewer_bits.stored:
        with checkpoint.reading(device, dtype=None) as read:
            yield lambda *names: joined([from_stored(name, fewer_bits.how, read) for name in names])
    else:
        with checkpoint.reading(device, torch.float32) as read:
            yield lambda *names: joined([quantised(name, read(name), fewer_bits.how) for name in names])


def _checkpoint(
    files: Mapping[str, Path], prefix: str, shape: Architecture, fewer_bits: FewerBits | None
) -> Checkpoint:
    shapes = expected_shapes(shape)
    if fewer_bits is None:
        return Checkpoint(files, shapes, prefix)
    check_layers(fewer_bits.how, shape.layers)
    if not fewer_bits.stored:
        return Checkpoint(files, shapes, prefix)
    dtypes: dict[str, torch.dtype] = {}
    for name, size in quantised_matrices(shape, fewer_bits.how).items():
        shapes |= shapes_stored(name, size, fewer_bits.how)
        dtypes |= dtypes_stored(name, fewer_bits.how)
    return Checkpoint(files, shapes, prefix, dtypes)


def quantised_matrices(shape: Architecture, how: Quantisation) -> dict[str, tuple[int, int]]:
    """The names and sizes of the matrices that are kept in fewer bits; of a tied head, too."""
    expected = expected_shapes(replace(shape, tied=False))
    return {
        name: (size[0], size[1])
        for name, size in expected.items()
        if len(size) == 2 and name != EMBEDDING and _part(name) not in how.excluded
    }


def _part(name: str) -> str:
    """What an exclusion would call it: lm_head or model.layers.N."""
    return HEAD if name == HEAD_WEIGHT else ".".join(name.split(".")[:3])


def _layer(
    prefix: str, shape: Architecture, layout: LayoutOf[Matrix], read: Read, matrix: Callable[..., Matrix]
) -> Layer:
    def tensors(bias: bool, *names: str) -> tuple[Matrix, Tensor | None]:
        return (
            matrix(*(f"{prefix}.{name}.weight" for name in names)),
            read(*(f"{prefix}.{name}.bias" for name in names)) if bias else None,
        )

    return Layer(
        attention_norm=read(f"{prefix}.input_layernorm.weight"),
        qkv=layout.projection(*tensors(shape.qkv_bias, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        qk_norm=_qk_norm(f"{prefix}.self_attn", shape, read) if shape.qk_norm else None,
        out=layout.projection(*tensors(shape.out_bias, "self_attn.o_proj")),
        mlp_norm=read(f"{prefix}.post_attention_layernorm.weight"),
        gated=layout.gated(*tensors(shape.mlp_bias, "mlp.gate_proj", "mlp.up_proj")),
        down=layout.projection(*tensors(shape.mlp_bias, "mlp.down_proj")),
    )


def _qk_norm(prefix: str, shape: Architecture, read: Read) -> Tensor:
    """One weight for all query heads and one for all key heads, laid out so that one operation serves both."""
    query, key = read(f"{prefix}.q_norm.weight"), read(f"{prefix}.k_norm.weight")
    return torch.cat((query.expand(shape.heads, -1), key.expand(shape.kv_heads, -1)))


def expected_shapes(shape: Architecture) -> Shapes:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv = {"q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    expected: Shapes = {EMBEDDING: (shape.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not shape.tied:
        expected[HEAD_WEIGHT] = (shape.vocab_size, hidden)
    for index in range(shape.layers):
        prefix = f"model.layers.{index}"
        expected[f"{prefix}.input_layernorm.weight"] = (hidden,)
        expected[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        expected |= _linears(f"{prefix}.self_attn", qkv, shape.qkv_bias)
        expected |= _linears(f"{prefix}.self_attn", {"o_proj": (hidden, query)}, shape.out_bias)
        if shape.qk_norm:
            expected |= {f"{prefix}.self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
        expected |= _linears(f"{prefix}.mlp", mlp, shape.mlp_bias)
    return expected


def _linears(prefix: str, shapes: Mapping[str, tuple[int, int]], bias: bool) -> Shapes:
    found: Shapes = {}
    for name, (rows, columns) in shapes.items():
        found[f"{prefix}.{name}.weight"] = (rows, columns)
        if bias:
            found[f"{prefix}.{name}.bias"] = (rows,)
    return found


def check_names(directory: Path, found: set[str], expected: set[str], shape: Architecture) -> None:
    missing = sorted(expected - found)
    if missing:
        raise ModelRefused(f"{directory} lacks {len(missing)} tensors that config.json asks for: {_some(missing)}")
    # A tensor nobody asked for (a bias, an adapter) means that another model was trained than config.json describes.
    surplus = sorted(name for name in found - expected if not name.endswith(RECOMPUTED))
    if shape.tied:
        surplus = [name for name in surplus if name != HEAD_WEIGHT]
    if surplus:
        raise ModelRefused(
            f"{directory} holds {len(surplus)} tensors that config.json has no place for: {_some(surplus)}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
