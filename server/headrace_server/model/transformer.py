"""The forward pass of the Llama family over one packed step (Touvron et al. 2023; grouped queries as in Llama 2 and 3).

Mistral adds a window to attention, Qwen2 biases, Qwen3 a norm of queries and keys.
"""

from torch import Tensor
from torch.nn.functional import embedding, rms_norm

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attention
from headrace_server.model.batch import Batch
from headrace_server.model.norm import Norm
from headrace_server.model.weights import Weights


class Transformer:
    def __init__(self, shape: Architecture, weights: Weights, attention: Attention, norm: Norm) -> None:
        self._shape = shape
        self._weights = weights
        self._attention = attention
        self._norm = norm

    def hidden(self, batch: Batch) -> Tensor:
        """(T, hidden): what `logits` reads. Writes the step's keys and values into the cache."""
        x = embedding(batch.token_ids, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            x = layer.out.added_to(x, self._attend(self._norm(x, layer.attention_norm), index, batch))
            x = layer.down.added_to(x, layer.gated(self._norm(x, layer.mlp_norm)))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> float32 (rows, vocab)."""
        return self._weights.head(self._norm(hidden, self._weights.norm)).float()

    def _attend(self, x: Tensor, index: int, batch: Batch) -> Tensor:
        layer, shape = self._weights.layers[index], self._shape
        projected = layer.qkv(x).view(len(x), -1, shape.head_dim)
        if layer.qk_norm is not None:
            asked = projected[:, : -shape.kv_heads]  # queries and keys at once
            asked.copy_(rms_norm(asked, (shape.head_dim,), None, shape.rms_norm_eps) * layer.qk_norm)
        return self._attention.attend(projected, index, shape.windows[index], batch)
