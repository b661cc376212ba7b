"""The forward pass of the Llama family over one packed step (Touvron et al. 2023; grouped queries as in Llama 2 and 3).

Mistral adds a window to attention, Qwen2 biases, Qwen3 a norm of queries and keys.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import attend
from headrace_server.model.batch import Batch
from headrace_server.model.cache import KvCache
from headrace_server.model.rope import rotate
from headrace_server.model.weights import Layer, Linear, Weights


@dataclass(frozen=True, slots=True)
class Pass:
    """What every layer of one forward pass shares."""

    batch: Batch
    cache: KvCache
    cos: Tensor  # (T, 1, head_dim / 2)
    sin: Tensor


class Transformer:
    def __init__(self, shape: Architecture, weights: Weights, max_context: int) -> None:
        self._shape = shape
        self._weights = weights
        self._cos, self._sin = shape.rope.tables(max_context, shape.head_dim, weights.embedding.device)

    def logits(self, batch: Batch, cache: KvCache) -> Tensor:
        """float32 (S, vocab), for the rows that sample. Writes the step's keys and values into the cache."""
        x = embedding(batch.token_ids, self._weights.embedding)
        cos, sin = (table[batch.positions].unsqueeze(1).to(x.dtype) for table in (self._cos, self._sin))
        this = Pass(batch, cache, cos, sin)
        for index, layer in enumerate(self._weights.layers):
            x = x + self._attention(self._norm(x, layer.attention_norm), index, this)
            x = x + self._mlp(self._norm(x, layer.mlp_norm), layer)
        last = self._norm(x[batch.sampled_rows], self._weights.norm)
        return linear(last, self._weights.head).float()

    def _attention(self, x: Tensor, index: int, this: Pass) -> Tensor:
        layer, shape = self._weights.layers[index], self._shape
        projected = _apply(layer.qkv, x).view(len(x), -1, shape.head_dim)
        asked, values = projected[:, : -shape.kv_heads], projected[:, -shape.kv_heads :]  # queries and keys at once
        if layer.qk_norm is not None:
            asked = rms_norm(asked, (shape.head_dim,), None, shape.rms_norm_eps) * layer.qk_norm
        rotated = rotate(asked, this.cos, this.sin)
        this.cache.write(index, this.batch.cache_rows, rotated[:, shape.heads :], values)
        found = attend(rotated[:, : shape.heads], index, this.cache, this.batch, shape.windows[index])
        return _apply(layer.out, found.flatten(1))

    def _mlp(self, x: Tensor, layer: Layer) -> Tensor:
        gate, up = _apply(layer.gate_up, x).chunk(2, dim=-1)
        return _apply(layer.down, silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), weight, self._shape.rms_norm_eps)


def _apply(layer: Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
