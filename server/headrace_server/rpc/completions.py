"""OpenAI's body of /v1/completions."""

from typing import Any, ClassVar

from pydantic import field_validator

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.openai import MOST_CHOICES, Body
from headrace_server.rpc.shapes import Head, Shape, completion_shape
from headrace_server.rpc.tool_calls import Form

Prompt = str | tuple[int, ...]


class CompletionBody(Body):
    DEFAULT_NEW_TOKENS: ClassVar[int] = 16  # OpenAI's

    prompt: tuple[Prompt, ...]
    logprobs: int | None = None
    echo: bool | None = None

    @field_validator("prompt", mode="plain", json_schema_input_type=str | list[str] | list[int] | list[list[int]])
    @classmethod
    def _prompts(cls, prompt: Any) -> tuple[Prompt, ...]:
        match prompt:
            case str():
                return (prompt,)
            case list() if _are_ids(prompt):
                return (tuple(prompt),)
            case list() if all(isinstance(one, str) for one in prompt):
                return tuple(prompt)
            case list() if all(isinstance(one, list) and _are_ids(one) for one in prompt):
                return tuple(tuple(one) for one in prompt)
            case _:
                raise ValueError("must be a string, a list of token ids, or a list of strings or of such lists")

    def asks(self) -> tuple[Ask, ...]:
        choices = len(self.prompt) * self.choices
        if choices > MOST_CHOICES:
            field = "prompt" if self.choices == 1 else "n"
            raise InvalidRequest(field, f"asks for {choices} choices; at most {MOST_CHOICES} are served in one request")
        common = self.common()
        return tuple(
            Ask(
                prompt=prompt,
                max_new_tokens=self.max_tokens,
                default_new_tokens=self.DEFAULT_NEW_TOKENS,
                echo=bool(self.echo),
                prompt_logprobs=self.logprobs if self.echo else None,
                **common,
            )
            for prompt in self.prompt
        )

    def shape(self, head: Head, form: Form | None) -> Shape:
        choices = len(self.prompt) * self.choices
        likeliest, counts = bool(self.logprobs), self.wants_usage_always()
        return completion_shape(head, choices, self.choices, likeliest=likeliest, counts=counts)

    def wanted_logprobs(self) -> int | None:
        return self.logprobs


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)
