"""What a model of this architecture costs to compute, from config.json alone."""

import torch

from headrace_server.model.architecture import Architecture
from headrace_server.model.quantisation import Quantisation
from headrace_server.model.weights import count_matrix_weights, count_parameters, quantised_matrices
from headrace_server.telemetry.work import ModelWork

SCALE, SCALE_AND_OFFSET = 4, 4  # bytes: float32; two bfloat16


def work_of(shape: Architecture, dtype: torch.dtype, fewer_bits: Quantisation | None = None) -> ModelWork:
    """Sliding windows are not seen: their attention is counted in full."""
    table = shape.vocab_size * shape.hidden_size  # the embedding, of which a token reads one row; or the output matrix
    others = count_parameters(shape) - (table if shape.tied else 2 * table)
    return ModelWork(
        flops_per_token=2.0 * count_matrix_weights(shape),
        flops_per_sample=2.0 * table,
        flops_per_pair=4.0 * shape.layers * shape.heads * shape.head_dim,
        weight_bytes=(others + table) * dtype.itemsize - (_saved(shape, dtype, fewer_bits) if fewer_bits else 0.0),
        kv_bytes_per_token=float(shape.kv_values_per_token * dtype.itemsize),
    )


def _saved(shape: Architecture, dtype: torch.dtype, how: Quantisation) -> float:
    """Bytes."""
    saved = 0.0
    for outputs, inputs in quantised_matrices(shape, how).values():
        values = outputs * inputs
        scales = outputs * SCALE if how.group_size is None else values / how.group_size * SCALE_AND_OFFSET
        saved += values * (dtype.itemsize - how.bytes_per_weight) - scales
    return saved
