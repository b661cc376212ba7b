"""What a batch of texts costs, from config.json alone: no output matrix, and nothing kept for a next token."""

from dataclasses import replace

import torch

from headrace_server.model.architecture import Architecture
from headrace_server.model.encoder.shape import EncoderShape
from headrace_server.model.encoder.weights import count_matrix_weights
from headrace_server.model.weights import count_matrix_weights as count_decoder_weights
from headrace_server.model.work import work_of
from headrace_server.telemetry.work import ModelWork


def encoder_work(shape: EncoderShape, dtype: torch.dtype) -> ModelWork:
    weights = count_matrix_weights(shape)
    return ModelWork(
        flops_per_token=2.0 * weights,
        flops_per_sample=2.0 * (shape.hidden_size**2 + shape.hidden_size) if shape.judges else 0.0,
        flops_per_pair=4.0 * shape.layers * shape.hidden_size,
        weight_bytes=float(weights * dtype.itemsize),
        kv_bytes_per_token=0.0,
        both_ways=True,
    )


def decoder_work(shape: Architecture, dtype: torch.dtype) -> ModelWork:
    return replace(
        work_of(shape, dtype),
        flops_per_sample=0.0,
        weight_bytes=float(count_decoder_weights(shape) * dtype.itemsize),
        kv_bytes_per_token=0.0,
    )
