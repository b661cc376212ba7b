"""An embedder's tokenizer: texts to token ids, with the special tokens that the model was trained with.

Of two texts that are read as one each token has a type: 0 in the first, 1 in the second. It travels within the token's
id, as `id + type * vocab_size`, so that for whatever lies between, a text is a row of numbers.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from headrace_server.embedding import Pair
from headrace_server.errors import ModelRefused


class Tokens:
    """Safe to use from several threads."""

    def __init__(self, whole: Tokenizer, cut: Tokenizer, *, lower_case: bool, rows: int = 0) -> None:
        """`cut`: the same one, that keeps what fits with its special tokens. `rows`: of the model's vocabulary, where
        tokens have types."""
        self._whole = whole
        self._cut = cut
        self._lower_case = lower_case
        self._rows = rows

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id that encoding can give."""
        return 1 + max(self._whole.get_vocab().values())

    def encode(self, texts: Sequence[str | Pair], *, truncate: bool) -> list[list[int]]:
        """Of a pair the longer text is cut first."""
        tokenizer = self._cut if truncate else self._whole
        given = [(self._cased(one.first), self._cased(one.second)) if isinstance(one, Pair) else self._cased(one)
                 for one in texts]  # fmt: skip
        found = tokenizer.encode_batch_fast(given)
        if not self._rows:
            return [one.ids for one in found]
        return [[id_ + kind * self._rows for id_, kind in zip(one.ids, one.type_ids, strict=True)] for one in found]

    def encode_alone(self, text: str) -> list[int]:
        """As the first of two texts, or the only one."""
        found: list[int] = self._whole.encode(self._cased(text)).ids
        return found

    def encode_plainly(self, text: str) -> list[int]:
        """Without special tokens."""
        found: list[int] = self._whole.encode(self._cased(text), add_special_tokens=False).ids
        return found

    def names(self, token_ids: Sequence[int]) -> list[str]:
        """As the vocabulary has them; "" for an id that it does not have."""
        return [str(self._whole.id_to_token(token_id) or "") for token_id in token_ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Special tokens are left out."""
        return str(self._whole.decode(list(token_ids)))

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text


def load_tokens(directory: Path, max_tokens: int, *, lower_case: bool, rows: int = 0) -> Tokens:
    """`max_tokens` of one text, special ones included; `rows` as of Tokens. Raises ModelRefused naming the file and the
    remedy."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelRefused(f"{path}: not found; save the tokenizer beside the weights (tokenizer.save_pretrained)")
    try:
        whole, cut = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
    except Exception as broken:  # the library raises nothing narrower
        raise ModelRefused(f"{path}: is not a tokenizer of the `tokenizers` library: {broken}") from broken
    for tokenizer in (whole, cut):
        tokenizer.no_padding()  # some files carry the lengths of their training
        tokenizer.no_truncation()
    cut.enable_truncation(max_tokens)
    return Tokens(whole, cut, lower_case=lower_case, rows=rows)
