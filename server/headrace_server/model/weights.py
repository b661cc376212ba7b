"""The weights as the forward pass uses them, and which tensors of a checkpoint they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.checkpoint import Checkpoint, Read, Shapes, files_in
from headrace_server.model.projection import Gated, Layout, PlainProjection, Projection

BODY = "model."  # before the names of all tensors but the output matrix
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
    fewest_rows: int  # fewer take longer than so many


def count_parameters(shape: Architecture) -> int:
    """A tied head counts once."""
    return sum(math.prod(size) for size in _expected(shape).values())


def count_matrix_weights(shape: Architecture) -> int:
    """Of the layers: what is multiplied with each token. Without norms, biases, embedding and output matrix."""
    layers = (size for name, size in _expected(shape).items() if name.startswith("model.layers."))
    return sum(math.prod(size) for size in layers if len(size) == 2)


def load_weights(
    directory: Path,
    shape: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    layout: Layout,
    *,
    body: bool = False,
) -> Weights:
    """`body`: hidden states are all that is wanted. The output matrix may be missing, and so may the first part of each
    name, as it is where a model was saved without one.

    Raises ModelRefused, naming what is missing, too much, or of the wrong shape.
    """
    shape = replace(shape, tied=True) if body else shape
    files, prefix = files_in(directory), ""
    if body and "embed_tokens.weight" in files:
        files, prefix = {f"{BODY}{name}": path for name, path in files.items()}, BODY
    checkpoint = Checkpoint(files, _expected(shape), prefix)
    _check_names(directory, set(checkpoint.files), set(checkpoint.shapes), shape)

    def alone(name: str) -> Tensor:
        with checkpoint.reading(device, dtype) as read:
            return read(name)

    def layer(index: int) -> Layer:
        with checkpoint.reading(device, dtype) as read:
            return _layer(f"model.layers.{index}", shape, layout, read)

    embedding = alone("model.embed_tokens.weight")
    return Weights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(shape.layers)),
        norm=alone("model.norm.weight"),
        head=PlainProjection(embedding, None)
        if body  # which asks for nothing of it
        else layout.projection(embedding if shape.tied else alone("lm_head.weight"), None),
        fewest_rows=layout.fewest_rows,
    )


def _layer(prefix: str, shape: Architecture, layout: Layout, read: Read) -> Layer:
    def tensors(bias: bool, *names: str) -> tuple[Tensor, Tensor | None]:
        return (
            read(*(f"{prefix}.{name}.weight" for name in names)),
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


def _expected(shape: Architecture) -> Shapes:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv = {"q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    expected: Shapes = {"model.embed_tokens.weight": (shape.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not shape.tied:
        expected["lm_head.weight"] = (shape.vocab_size, hidden)
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


def _check_names(directory: Path, found: set[str], expected: set[str], shape: Architecture) -> None:
    missing = sorted(expected - found)
    if missing:
        raise ModelRefused(f"{directory} lacks {len(missing)} tensors that config.json asks for: {_some(missing)}")
    # A tensor nobody asked for (a bias, an adapter) means that another model was trained than config.json describes.
    surplus = sorted(name for name in found - expected if not name.endswith(RECOMPUTED))
    if shape.tied:
        surplus = [name for name in surplus if name != "lm_head.weight"]
    if surplus:
        raise ModelRefused(
            f"{directory} holds {len(surplus)} tensors that config.json has no place for: {_some(surplus)}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
