"""The forward pass of the Llama family over one packed step (Touvron et al. 2023; grouped queries as in Llama 2 and 3).

Mistral adds a window to attention, Qwen2 biases, Qwen3 a norm of queries and keys.
"""

from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention
from headrace_server.model.batch import Batch
from headrace_server.model.weights import Layer, Linear, Weights


class Transformer:
    def __init__(self, shape: Architecture, weights: Weights, attention: Attention) -> None:
        self._shape = shape
        self._weights = weights
        self._attention = attention

    def logits(self, batch: Batch) -> Tensor:
        """float32 (S, vocab), for the rows that sample. Writes the step's keys and values into the cache."""
        x = embedding(batch.token_ids, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            x = x + self._attend(self._norm(x, layer.attention_norm), index, batch)
            x = x + self._mlp(self._norm(x, layer.mlp_norm), layer)
        last = self._norm(x[batch.sampled_rows], self._weights.norm)
        return linear(last, self._weights.head).float()

    def _attend(self, x: Tensor, index: int, batch: Batch) -> Tensor:
        layer, shape = self._weights.layers[index], self._shape
        projected = _apply(layer.qkv, x).view(len(x), -1, shape.head_dim)
        if layer.qk_norm is not None:
            asked = projected[:, : -shape.kv_heads]  # queries and keys at once
            asked.copy_(rms_norm(asked, (shape.head_dim,), None, shape.rms_norm_eps) * layer.qk_norm)
        return _apply(layer.out, self._attention.attend(projected, index, shape.windows[index], batch))

    def _mlp(self, x: Tensor, layer: Layer) -> Tensor:
        gate, up = _apply(layer.gate_up, x).chunk(2, dim=-1)
        return _apply(layer.down, silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), weight, self._shape.rms_norm_eps)


def _apply(layer: Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
