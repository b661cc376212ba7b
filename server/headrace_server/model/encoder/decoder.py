"""A decoder of the Llama family as a model that embeds: whole texts at once, nothing is kept for a next token."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headrace_server.model.architecture import Architecture
from headrace_server.model.attention import Attend, HeadNorms, Heads, seen, with_norms
from headrace_server.model.batch import Batch
from headrace_server.model.descriptor import Fill, Layout
from headrace_server.model.encoder.texts import Texts
from headrace_server.model.norm import PlainNorm, Unfused
from headrace_server.model.rope import rotate
from headrace_server.model.transformer import Transformer
from headrace_server.model.weights import Weights


class Decoder:
    """Stateless: several lanes may compute with it."""

    def __init__(self, shape: Architecture, weights: Weights, max_tokens: int) -> None:
        heads = Heads(shape.heads, shape.kv_heads, shape.head_dim)
        cos, sin = shape.rope.tables(max_tokens, shape.head_dim, weights.embedding.device)
        norms = tuple(layer.qk_norm for layer in weights.layers if layer.qk_norm is not None)
        attention = with_norms(
            WholeTexts(heads, cos, sin), HeadNorms(norms, shape.rms_norm_eps) if norms else None, heads
        )
        self._transformer = Transformer(shape, weights, attention, Unfused(PlainNorm(shape.rms_norm_eps)))

    def hidden(self, texts: Texts) -> Tensor:
        """(T, hidden), normed."""
        return self._transformer.hidden(_batch(texts))


class WholeTexts:
    """Each token attends to those of its own text before it, and to itself. No cache."""

    def __init__(self, heads: Heads, cos: Tensor, sin: Tensor) -> None:
        """cos and sin: float32 (positions, head_dim / 2)."""
        self._heads = heads
        self._cos = cos
        self._sin = sin

    def over(self, batch: Batch) -> Attend:
        cos, sin = (table[batch.positions].unsqueeze(1) for table in (self._cos, self._sin))
        return partial(self._attend, batch=batch, cos=cos, sin=sin)

    def _attend(
        self, projected: Tensor, layer: int, window: int | None, *, batch: Batch, cos: Tensor, sin: Tensor
    ) -> Tensor:
        query, kv = self._heads.query, self._heads.kv
        rotated = rotate(projected[:, :-kv], cos.to(projected.dtype), sin.to(projected.dtype)).transpose(0, 1)
        values = projected[:, -kv:].transpose(0, 1)
        found = torch.empty_like(projected[:, :query])
        for fill in batch.layout.fills:
            rows = fill.rows
            # Those that share a KV head beside each other; shared by a stride of 0, see cpu/attention.py.
            asked = rotated[:query, rows].reshape(kv, query // kv, fill.tokens, -1)
            keys, seen_values = (
                each[:, None].expand(-1, query // kv, -1, -1) for each in (rotated[query:, rows], values[:, rows])
            )
            whole = window is None or fill.tokens <= window
            mask = None if whole else seen(batch.positions[rows], fill.tokens, window)
            one = scaled_dot_product_attention(asked, keys, seen_values, attn_mask=mask, is_causal=whole)
            found[rows] = one.flatten(0, 1).transpose(0, 1)
        return found.flatten(1)


def _batch(texts: Texts) -> Batch:
    none = texts.numbers[:0]
    fills = tuple(
        Fill(begin, end - begin, slot, 0)
        for slot, (begin, end) in enumerate(zip(texts.ends, texts.ends[1:], strict=False))
    )
    layout = Layout(
        grants=0, tokens=texts.tokens, decoding=0, sampled=0, masked=0, mask_words=0, scored=(), longest=0,
        fills=fills, sampling_slots=(),
    )  # fmt: skip
    return Batch(
        layout=layout,
        token_ids=texts.token_ids,
        slots=none,
        positions=texts.positions,
        cache_rows=none,
        sampled_rows=none,
        fill_bounds=texts.bounds,
        pages=none,
    )
