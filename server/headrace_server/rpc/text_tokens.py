"""What the model would see of a text, and back: /tokenize and Tokenize, of models that generate and that embed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.ask import Chat


class TextTokens(Protocol):
    @property
    def max_tokens(self) -> int:
        """Of a prompt and its answer, or of a text to embed."""

    @property
    def tokenizer_info(self) -> dict[str, str | None]:
        """Special tokens by their name, and the chat template."""

    async def tokenise(self, prompt: str | Chat, *, special: bool = True) -> tuple[int, ...]:
        """Without the special tokens that are added to a text, if `special` is not. Raises InvalidRequest."""

    def token_names(self, token_ids: tuple[int, ...]) -> list[str]:
        """As the tokenizer's vocabulary has them."""

    async def detokenise(self, token_ids: tuple[int, ...]) -> str:
        """Without special tokens. Raises InvalidRequest for ids that the model does not have."""


class Tokenizer(Protocol):
    """An embedder's; each call is made in a thread."""

    @property
    def vocab_size(self) -> int: ...

    def encode_alone(self, text: str) -> list[int]:
        """As the first of two texts, or the only one."""

    def encode_plainly(self, text: str) -> list[int]:
        """Without special tokens."""

    def names(self, token_ids: Sequence[int]) -> list[str]: ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Special tokens are left out."""


@dataclass(frozen=True, slots=True)
class EmbedderTokens:
    """A TextTokens."""

    tokenizer: Tokenizer
    max_tokens: int
    special_tokens: dict[str, str]

    @property
    def tokenizer_info(self) -> dict[str, str | None]:
        return {**self.special_tokens, "chat_template": None}

    async def tokenise(self, prompt: str | Chat, *, special: bool = True) -> tuple[int, ...]:
        if isinstance(prompt, Chat):
            raise InvalidRequest("messages", "are a chat, and this model embeds texts; send `prompt`")
        encode = self.tokenizer.encode_alone if special else self.tokenizer.encode_plainly
        return tuple(await asyncio.to_thread(encode, prompt))

    def token_names(self, token_ids: tuple[int, ...]) -> list[str]:
        return self.tokenizer.names(token_ids)

    async def detokenise(self, token_ids: tuple[int, ...]) -> str:
        most = self.tokenizer.vocab_size
        for strange in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= strange < most:
                raise InvalidRequest("tokens", f"token id {strange} is outside 0..{most - 1} of this tokenizer")
        return await asyncio.to_thread(self.tokenizer.decode, token_ids)
