"""The forward pass of BERT (Devlin et al. 2018) over packed texts. RoBERTa differs in where positions begin."""

from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from headrace_server.model.encoder.attention import TextAttention
from headrace_server.model.encoder.shape import EncoderShape
from headrace_server.model.encoder.texts import Texts
from headrace_server.model.encoder.weights import EncoderLayer, EncoderWeights, Norm


class Encoder:
    def __init__(self, shape: EncoderShape, weights: EncoderWeights, attention: TextAttention) -> None:
        self._shape = shape
        self._weights = weights
        self._attention = attention

    def hidden(self, texts: Texts) -> Tensor:
        """(T, hidden): the last layer's, of every token."""
        weights = self._weights
        x = embedding(texts.token_ids, weights.words) + embedding(texts.positions, weights.positions)
        x = self._normed(x, weights.norm)
        for layer in weights.layers:
            x = self._through(layer, x, texts)
        return x

    def _through(self, layer: EncoderLayer, x: Tensor, texts: Texts) -> Tensor:
        shape = self._shape
        projected = layer.qkv(x).view(len(x), 3, shape.heads, shape.head_dim)
        x = self._normed(layer.out.added_to(x, self._attention(projected, texts)), layer.attention_norm)
        return self._normed(layer.down.added_to(x, layer.up.gelu(x)), layer.norm)

    def _normed(self, x: Tensor, norm: Norm) -> Tensor:
        return layer_norm(x, (self._shape.hidden_size,), norm.weight, norm.bias, self._shape.norm_eps)
