"""What each token id contributes to a text, as bytes: a token may hold a part of a character only."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # the SentencePiece family's, for what no word covers
BROKEN = "\ufffd"


class TokenBytes:
    """Asks the tokenizer once for each id that comes up; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # After another token: some decoders take a space from the first word of a text.
        self._before = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._before_text = tokenizer.decode(self._before)
        self._text: dict[int, bytes] = {}
        words = tokenizer.encode("a a", add_special_tokens=False).ids
        self._spaced = next((word for word in words if self.text(word)[:1] == b" "), None)

    def text(self, token_id: int) -> bytes:
        """Empty for what is not shown: special tokens, and ids beyond the tokenizer's (embeddings are often padded)."""
        found = self._text.get(token_id)
        if found is None:
            found = self._text[token_id] = self._look_up(token_id)
        return found

    def name(self, token_id: int) -> bytes:
        """As `text`, but a special token's own name, such as </s>."""
        return self.text(token_id) or self._own_name(token_id).encode()

    def drops_space_after(self, prompt: Sequence[int]) -> bool:
        """Whether a first word that comes after these ids loses its leading space."""
        if self._spaced is None:
            return False
        text = str(self._tokenizer.decode([*prompt, self._spaced]))
        return not text.endswith(self.text(self._spaced).decode())

    def _look_up(self, token_id: int) -> bytes:
        text = str(self._tokenizer.decode([*self._before, token_id])).removeprefix(self._before_text)
        return text.encode() if BROKEN not in text else _raw(self._own_name(token_id), text)

    def _own_name(self, token_id: int) -> str:
        return str(self._tokenizer.id_to_token(token_id) or "")


def _raw(name: str, text: str) -> bytes:
    """Of a token whose text is no whole characters, by the two ways in which tokenizers name bytes."""
    if byte := BYTE_TOKEN.fullmatch(name):
        return bytes([int(byte[1], 16)])
    values = _byte_of_character()
    return bytes(values[character] for character in name) if values.keys() >= set(name) else text.encode()


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable bytes are themselves, the others follow from U+0100 in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return dict(_characters(printable))


def _characters(printable: set[int]) -> Iterator[tuple[str, int]]:
    others = 0
    for byte in range(256):
        if byte in printable:
            yield chr(byte), byte
        else:
            yield chr(0x100 + others), byte
            others += 1
