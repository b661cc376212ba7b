"""An embedder's tokenizer: texts to token ids, with the special tokens that the model was trained with."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from headrace_server.errors import ModelRefused


class Tokens:
    """Safe to use from several threads."""

    def __init__(self, whole: Tokenizer, cut: Tokenizer, *, lower_case: bool) -> None:
        """`cut`: the same one, that keeps what fits with its special tokens."""
        self._whole = whole
        self._cut = cut
        self._lower_case = lower_case

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id that encoding can give."""
        return 1 + max(self._whole.get_vocab().values())

    def encode(self, texts: Sequence[str], *, truncate: bool) -> list[list[int]]:
        tokenizer = self._cut if truncate else self._whole
        given = [text.lower() for text in texts] if self._lower_case else list(texts)
        return [found.ids for found in tokenizer.encode_batch_fast(given)]


def load_tokens(directory: Path, max_tokens: int, *, lower_case: bool) -> Tokens:
    """`max_tokens` of one text, special ones included. Raises ModelRefused naming the file and the remedy."""
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
    return Tokens(whole, cut, lower_case=lower_case)
