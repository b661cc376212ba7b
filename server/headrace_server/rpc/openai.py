"""OpenAI's request bodies, as far as they are served; what would change the answer and is not served is refused."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from headrace_server.errors import InvalidRequest
from headrace_server.request import Sampling
from headrace_server.rpc.ask import Ask, Chat

# Fields that would change the answer. Absent, null, or one of these values means: not asked for.
UNSERVED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}
# Fields that change nothing here.
IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls",
        "prompt_cache_key", "prompt_cache_retention", "verbosity",
    }
)  # fmt: skip


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against traffic analysis; we add none


class Body(BaseModel):
    """What completions and chat share."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: int | None = None  # not OpenAI's, but every engine takes it
    ignore_eos: bool | None = None  # likewise; load tests need answers of a known length

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises InvalidRequest naming the field in the client's words."""
        document = _json_object(raw)
        _refuse_unserved(document)
        known = {name: value for name, value in document.items() if name not in IGNORED and name not in UNSERVED}
        try:
            return cls.model_validate(known)
        except ValidationError as invalid:
            raise _as_refusal(invalid) from invalid

    @abstractmethod
    def ask(self) -> Ask:
        """Raises InvalidRequest in our words; `called` translates."""

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
        )

    def called(self, field: str) -> str:
        """The client's name of one of our fields."""
        return "max_tokens" if field == "max_new_tokens" else field

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(Body):
    DEFAULT_NEW_TOKENS: ClassVar[int] = 16  # OpenAI's

    prompt: str | tuple[int, ...]

    @field_validator("prompt", mode="plain")
    @classmethod
    def _one_prompt(cls, prompt: Any) -> str | tuple[int, ...]:
        match prompt:
            case str():
                return prompt
            case [str() as only]:
                return only
            case [list() as ids] | list(ids) if _are_ids(ids):
                return tuple(ids)
            case [_, _, *_] if not _are_ids(prompt):
                raise ValueError(f"holds {len(prompt)} prompts; send one request for each")
            case _:
                raise ValueError("must be a string or a list of token ids")

    def ask(self) -> Ask:
        return Ask(
            prompt=self.prompt,
            max_new_tokens=self.max_tokens,
            default_new_tokens=self.DEFAULT_NEW_TOKENS,
            sampling=self.sampling(),
            stop=self.stops(),
            ignore_eos=bool(self.ignore_eos),
        )


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: Annotated[str, Field(pattern="^(system|developer|user|assistant)$")]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_only(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("only parts of type `text` are served")
        return "".join(part.get("text", "") for part in content)


class ChatBody(Body):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None

    def called(self, field: str) -> str:
        """The client's name of one of our fields."""
        names = {"prompt": "messages"}
        if self.max_completion_tokens is not None:
            names["max_new_tokens"] = "max_completion_tokens"
        return names.get(field) or super().called(field)

    def ask(self) -> Ask:
        messages = tuple({"role": message.role, "content": message.content} for message in self.messages)
        return Ask(
            prompt=Chat(messages),
            max_new_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            default_new_tokens=None,  # as long as the context allows
            sampling=self.sampling(),
            stop=self.stops(),
            ignore_eos=bool(self.ignore_eos),
        )


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError as broken:
        raise InvalidRequest("body", f"is not JSON: {broken}") from broken
    if not isinstance(document, dict):
        raise InvalidRequest("body", "must be a JSON object")
    return document


def _refuse_unserved(document: Mapping[str, Any]) -> None:
    for name, harmless in UNSERVED.items():
        value = document.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            raise InvalidRequest(name, "is not served here and would change the answer; leave it out")


def _as_refusal(invalid: ValidationError) -> InvalidRequest:
    """The first fault; a message of one line serves a client better than a list."""
    fault = invalid.errors(include_url=False)[0]
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    if fault["type"] == "extra_forbidden":
        return InvalidRequest(field, "is not a known field; check its spelling or leave it out")
    return InvalidRequest(field, fault["msg"].removeprefix("Value error, "))


def _are_ids(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)
