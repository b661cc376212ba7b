"""The forward pass of the Llama family over one packed step (Touvron et al. 2023; grouped queries as in Llama 2 and 3).

Mistral adds a window to attention, Qwen2 biases; Qwen3's norm of queries and keys is attention's, too.
"""

from torch import Tensor
from torch.nn.functional import embedding, pad

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attend, Attention
from headrace_server.model.batch import Batch
from headrace_server.model.lora.delta import NO_ADAPTERS, Adapters
from headrace_server.model.norm import Residual
from headrace_server.model.weights import Layer, Weights


class Transformer:
    def __init__(
        self,
        shape: Architecture,
        weights: Weights,
        attention: Attention,
        residual: Residual,
        adapters: Adapters = NO_ADAPTERS,
    ) -> None:
        self._adapters = adapters
        self._shape = shape
        self._weights = weights
        self._attention = attention
        self._residual = residual
        # What reads the stream after each layer: the next one's attention, after the last one the head.
        self._norms_after = (*(layer.attention_norm for layer in weights.layers[1:]), weights.norm)

    def hidden(self, batch: Batch) -> Tensor:
        """(T, hidden), normed: what `logits` reads. Writes the step's keys and values into the cache."""
        attend = self._attention.over(batch)
        layers, residual = self._layers(batch), self._residual
        tokens = len(batch.token_ids)
        x = self._padded(embedding(batch.token_ids, self._weights.embedding))
        normed = residual.normed(x, layers[0].attention_norm)
        for index, (layer, norm_after) in enumerate(zip(layers, self._norms_after, strict=True)):
            x, normed = residual.added(x, layer.out, self._attend(layer, normed, tokens, index, attend), layer.mlp_norm)
            x, normed = residual.added(x, layer.down, layer.gated(normed), norm_after)
        return normed[:tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> float32 (rows, vocab)."""
        return self._weights.head(self._padded(hidden))[: len(hidden)].float()

    def no_hidden(self, rows: int) -> Tensor:
        """(rows, hidden) of zeros, for `hidden` to be kept in."""
        return self._weights.norm.new_zeros(rows, self._shape.hidden_size)

    def padding(self, rows: int) -> int:
        """Rows that are computed besides these."""
        return self._weights.rows.at_least(rows) - rows

    def _padded(self, x: Tensor) -> Tensor:
        missing = self.padding(len(x))
        return pad(x, (0, 0, 0, missing)) if missing else x

    def _layers(self, batch: Batch) -> tuple[Layer, ...]:
        layers = self._weights.layers
        return self._adapters.beside(layers, batch.adapted) if batch.adapted else layers

    def _attend(self, layer: Layer, x: Tensor, tokens: int, index: int, attend: Attend) -> Tensor:
        shape = self._shape
        projected = layer.qkv(x)[:tokens].view(tokens, -1, shape.head_dim)
        return self._padded(attend(projected, index, shape.windows[index]))
