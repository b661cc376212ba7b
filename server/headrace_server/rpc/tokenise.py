"""vLLM's /tokenize and /detokenize: what the model would see of a text or a chat, and the text of token ids."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from headrace_server.rpc.ask import Chat
from headrace_server.rpc.body import JsonBody
from headrace_server.rpc.chat import Message
from headrace_server.rpc.text_tokens import TextTokens
from headrace_server.rpc.tools import MOST_TOOLS, Tool, offer_of


class TokenBody(JsonBody):
    model: str | None = None


class TokenizeBody(TokenBody):
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None  # such as a leading BOS; a chat's template writes its own
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("needs either `prompt` or `messages`")
        if self.messages is not None and self.add_special_tokens:
            raise ValueError("add_special_tokens does not go with `messages`: their template writes the special tokens")
        return self

    async def answer(self, known: TextTokens) -> dict[str, Any]:
        """Raises InvalidRequest."""
        ids = await known.tokenise(self._prompt(), special=self.add_special_tokens is not False)
        names = known.token_names(ids) if self.return_token_strs else None
        return {
            "count": len(ids),
            "max_model_len": known.max_tokens,
            "tokens": ids,
            "token_strs": names,
        }

    def _prompt(self) -> str | Chat:
        if self.messages is None:
            return self.prompt or ""
        messages = tuple(message.shown() for message in self.messages)
        return Chat(messages, offer_of(self.tools, None, None), self.chat_template_kwargs)


class DetokenizeBody(TokenBody):
    tokens: list[int]

    async def answer(self, known: TextTokens) -> dict[str, Any]:
        """Raises InvalidRequest."""
        return {"prompt": await known.detokenise(tuple(self.tokens))}
