"""What the loaded model can carry, and the refusal of what it never could."""

from dataclasses import dataclass

from headrace_server.errors import InvalidRequest, UnknownModel
from headrace_server.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    max_context: int  # tokens, prompt + new ones; never more than `kv_pages` can hold
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    kv_pages: int  # pages of the KV cache
    adapters: tuple[str, ...] = ()  # that a request may name

    def check(self, request: Request) -> None:
        """Raises InvalidRequest, or UnknownModel, for a request that could never run: waiting would not help it."""
        if request.adapter and request.adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise UnknownModel("adapter", f"{request.adapter!r} is not served here; adapters of this server: {known}")
        prompt, new = len(request.prompt), request.max_new_tokens
        if not prompt:
            raise InvalidRequest("prompt", "is empty; send at least one token")
        if new < 1 and not (new == 0 and request.prompt_logprobs is not None):
            raise InvalidRequest("max_new_tokens", f"is {new}; must be at least 1")
        if prompt >= self.max_context:
            raise InvalidRequest(
                "prompt",
                f"has {prompt} tokens; at most {self.max_context - 1} leave room for an answer, shorten it",
                "context_length_exceeded",
            )
        if prompt + new > self.max_context:
            raise InvalidRequest(
                "max_new_tokens",
                f"is {new} after a prompt of {prompt} tokens; together they must not exceed {self.max_context}, "
                f"ask for at most {self.max_context - prompt}",
                "context_length_exceeded",
            )
        self.check_vocabulary("prompt", request.prompt)

    def check_pages(self, page_size: int) -> None:
        """Raises ValueError when the longest request that `check` lets in would wait for pages for ever."""
        if self.kv_pages * page_size < self.max_context:
            raise ValueError(
                f"{self.kv_pages} pages of {page_size} tokens cannot hold a context of {self.max_context} tokens"
            )

    def check_vocabulary(self, field: str, token_ids: tuple[int, ...]) -> None:
        """Raises InvalidRequest for ids that the model does not have."""
        for strange in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= strange < self.vocab_size:
                raise InvalidRequest(field, f"token id {strange} is outside 0..{self.vocab_size - 1} of this model")
