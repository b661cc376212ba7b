"""What a model weighs and costs in each format that it could be kept in: from config.json, without its weights.

Where safetensors lie beside it, the names in them are compared with it, so that nobody sizes for another model.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from headrace_server.config import KvCacheDtype, QuantizationConfig, WeightFormat
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.cache import bytes_per_token
from headrace_server.model.checkpoint import files_in
from headrace_server.model.quantisation import Quantisation, asked, stored
from headrace_server.model.weights import check_names, expected_shapes, quantised_matrices
from headrace_server.model.work import work_of
from headrace_server.telemetry.work import ModelWork


@dataclass(frozen=True, slots=True)
class Footprint:
    weights: WeightFormat | None  # None: in the dtype
    cache: KvCacheDtype
    work: ModelWork
    bytes: float  # of all weights
    refusal: str | None  # why no server takes it so, on any device; None: one does


def footprints(directory: Path, dtype: torch.dtype) -> tuple[Footprint, ...]:
    """Weights as they are, in int8 and in int4, each with keys and values in `dtype` and in int8.

    Of a converted checkpoint: as it was converted. Raises ModelRefused.
    """
    shape, converted = read_architecture(directory), stored(directory)
    if converted is None and any(directory.glob("*.safetensors")):
        check_names(directory, set(files_in(directory)), set(expected_shapes(shape)), shape)
    ways = (
        [asked(QuantizationConfig(weights)) for weights in (None, *WeightFormat)] if converted is None else [converted]
    )
    return tuple(_footprint(shape, dtype, how, cache) for how, cache in product(ways, KvCacheDtype))


def _footprint(shape: Architecture, dtype: torch.dtype, how: Quantisation | None, cache: KvCacheDtype) -> Footprint:
    kept = torch.int8 if cache is KvCacheDtype.INT8 else dtype
    work = replace(work_of(shape, dtype, how), kv_bytes_per_token=float(bytes_per_token(shape, kept)))
    unread = 0 if shape.tied else shape.vocab_size * shape.hidden_size * dtype.itemsize  # the embedding: a row a token
    return Footprint(how.weights if how else None, cache, work, work.weight_bytes + unread, _refusal(shape, how))


def _refusal(shape: Architecture, how: Quantisation | None) -> str | None:
    if how is None or how.group_size is None:
        return None
    inputs = sorted({size[1] for size in quantised_matrices(shape, how).values() if size[1] % how.group_size})
    return f"groups of {how.group_size} do not divide {inputs[0]} inputs" if inputs else None
