"""OpenAI's body of /v1/chat/completions."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.rpc.body import json_object
from headrace_server.rpc.openai import Body
from headrace_server.rpc.shapes import Head, Shape, chat_shape
from headrace_server.rpc.tool_calls import Form
from headrace_server.rpc.tools import MOST_TOOLS, Offer, Tool, ToolChoice, offer_of

# Of messages that OpenAI's SDK gives back as it got them: they say nothing to the model.
ECHOED = frozenset({"refusal", "annotations", "audio", "function_call"})


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Annotated[str, Field(json_schema_extra={"enum": ["text"]})]
    text: str

    @field_validator("type")
    @classmethod
    def _text_only(cls, kind: str) -> str:
        if kind != "text":
            raise ValueError(f"is {kind!r}; only parts of type `text` are served")
        return kind


class CalledFunction(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    arguments: str  # JSON

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, arguments: str) -> str:
        try:
            json_object((arguments or "{}").encode())
        except InvalidRequest as broken:
            raise ValueError(f"{broken.message}; it must be a JSON object, as text") from broken
        return arguments


class Call(BaseModel):
    """Of a tool, by the assistant earlier in the chat."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def shown(self) -> dict[str, Any]:
        """To templates, which write the arguments out as JSON themselves."""
        arguments = json_object((self.function.arguments or "{}").encode())
        return {"id": self.id, "type": self.type, "function": {"name": self.function.name, "arguments": arguments}}


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: Annotated[str, Field(pattern="^(system|developer|user|assistant|tool)$")]
    content: list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None  # the assistant's
    tool_call_id: str | None = None  # whose result a tool's message is

    @model_validator(mode="before")
    @classmethod
    def _without_what_says_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name not in ECHOED or value}

    @field_validator("content", mode="before", json_schema_input_type=str | list[Part] | None)
    @classmethod
    def _as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("needs `content`")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("has `tool_calls`; only the assistant's messages have them")
        return self

    def shown(self) -> dict[str, Any]:
        """To the chat template."""
        message: dict[str, Any] = {"role": self.role, "content": "".join(part.text for part in self.content or ())}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.shown() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class ChatBody(Body):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's: what the template takes, such as enable_thinking

    @field_validator(
        "tool_choice", mode="before", json_schema_input_type=Literal["none", "auto", "required"] | ToolChoice | None
    )
    @classmethod
    def _word_or_object(cls, choice: Any) -> Any:
        return {"type": choice} if isinstance(choice, str) else choice

    def called(self, field: str) -> str:
        """The client's name of one of our fields."""
        names = {"prompt": "messages", "logprobs": "top_logprobs"}
        if self.max_completion_tokens is not None:
            names["max_new_tokens"] = "max_completion_tokens"
        return names.get(field) or super().called(field)

    def asks(self) -> tuple[Ask, ...]:
        common = self.common()
        offer = self.offer()
        messages = tuple(message.shown() for message in self.messages)
        return (
            Ask(
                prompt=Chat(messages, offer, self.chat_template_kwargs),
                max_new_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
                default_new_tokens=None,  # as long as the context allows
                **common,
            ),
        )

    def shape(self, head: Head, form: Form | None) -> Shape:
        offer = self.offer()
        calls = None if offer is None else form
        one_call = offer is not None and offer.one_call
        return chat_shape(head, self.choices, calls, one_call=one_call, counts=self.wants_usage_always())

    def offer(self) -> Offer | None:
        """Raises InvalidRequest."""
        return offer_of(self.tools, self.tool_choice, self.parallel_tool_calls)

    def wanted_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs", "needs `logprobs` to be true")
        return self.top_logprobs or 0 if self.logprobs else None
