"""How fast a machine could be at best: the slower of reading what a step must read and of multiplying what it must.

Both speeds are measured here, on a buffer of the weights' size and with one large matrix product, in as many threads
as torch takes. The prompts count as one perfect step. Attention is to the whole context, or to the sliding window.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MEASURED_FOR = 0.5  # s, each of the two
LARGEST = 2 * 2**30  # bytes: beyond any cache; a larger buffer would be read as fast
SIDE = 2048  # of the square matrices


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the model: what a step has to read and to multiply. Norms and biases are too small to count."""

    layer_parameters: int  # of all layers
    head_parameters: int
    embedding_parameters: int  # a row of them is read per token; 0 when they are the head's
    kv_values: int  # of one token: keys and values of all layers
    attention_width: int  # values of all query heads of all layers
    window: int  # tokens
    max_context: int  # tokens
    vocabulary: int
    bytes_per_value: int

    @property
    def parameters(self) -> int:
        return self.layer_parameters + self.head_parameters + self.embedding_parameters

    @property
    def streamed(self) -> int:
        """Parameters that each step reads."""
        return self.layer_parameters + self.head_parameters

    @classmethod
    def read(cls, directory: Path, dtype: str) -> "Shape":
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
        width = config.get("head_dim") or hidden // heads
        kv_heads = config.get("num_key_value_heads") or heads
        attention = 2 * hidden * width * (heads + kv_heads)
        vocabulary = config["vocab_size"]
        context = config["max_position_embeddings"]
        slides = config.get("use_sliding_window", True) and config.get("sliding_window")
        return cls(
            layer_parameters=layers * (attention + 3 * hidden * config["intermediate_size"]),
            head_parameters=vocabulary * hidden,
            embedding_parameters=0 if config.get("tie_word_embeddings") else vocabulary * hidden,
            kv_values=2 * layers * kv_heads * width,
            attention_width=layers * heads * width,
            window=min(context, slides or context),
            max_context=context,
            vocabulary=vocabulary,
            bytes_per_value=torch.empty(0, dtype=getattr(torch, dtype)).element_size(),
        )


@dataclass(frozen=True, slots=True)
class Speeds:
    read: float  # bytes/s
    multiply: float  # floating-point operations/s

    @classmethod
    def measured(cls, shape: Shape, dtype: str, device: str) -> "Speeds":
        """The median of many: what this machine does while it is as busy as now."""
        buffer = torch.ones(min(LARGEST, shape.streamed * shape.bytes_per_value) // 4, device=device)
        square = torch.ones(SIDE, SIDE, dtype=getattr(torch, dtype), device=device)
        return cls(
            read=buffer.nbytes / median_seconds(buffer.sum, device),
            multiply=2 * SIDE**3 / median_seconds(lambda: square @ square, device),
        )


def floor_seconds(shape: Shape, speeds: Speeds, requests: int, prompt: int, output: int) -> float:
    """For all requests together: their prompts in one step, then a step for each further token."""

    def step(bytes_read: float, operations: float) -> float:
        return max(bytes_read / speeds.read, operations / speeds.multiply)

    weights = shape.streamed * shape.bytes_per_value
    seen = sum(min(place, shape.window) for place in range(1, prompt + 1))  # by all tokens of a prompt
    prefill = requests * (
        2 * shape.layer_parameters * prompt + 2 * shape.head_parameters + 4 * shape.attention_width * seen
    )
    seconds = step(weights, prefill)
    for place in range(1, output):
        context = requests * min(prompt + place, shape.window)
        operations = 2 * shape.streamed * requests + 4 * shape.attention_width * context
        seconds += step(weights + context * shape.kv_values * shape.bytes_per_value, operations)
    return seconds


def median_seconds(work: Callable[[], object], device: str) -> float:
    work()  # the first one may compile: 0.9 s for an int8 product of 0.06 s
    taken: list[float] = []
    while sum(taken) < MEASURED_FOR:
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
