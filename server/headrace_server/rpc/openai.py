"""What OpenAI's request bodies share, as far as it is served; what would change the answer and is not is refused."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from headrace_server.errors import InvalidRequest
from headrace_server.request import Sampling
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.body import ModelBody
from headrace_server.rpc.shapes import Head, Shape
from headrace_server.rpc.structured import Format, ResponseFormat, StructuredOutputs, format_of
from headrace_server.rpc.tool_calls import Form

TOKEN_ID = re.compile(r"-?[0-9]{1,18}")

# Fields that would change the answer. Absent, null, or one of these values means: not asked for.
UNSERVED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}
# Fields that change nothing here.
IGNORED = frozenset(
    {
        "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "verbosity",
    }
)  # fmt: skip


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: the usage so far in every chunk
    include_obfuscation: bool = False  # padding against traffic analysis; we add none


MOST_CHOICES = 128  # of one prompt, as OpenAI's; and of one request


class Body(ModelBody):
    """What completions and chat share."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    # Not OpenAI's, but every engine takes them, by these names:
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None  # load tests need answers of a known length
    structured_outputs: StructuredOutputs | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest naming the field in the client's words."""
        _refuse_unserved(document)
        return super().of({name: it for name, it in document.items() if name not in IGNORED and name not in UNSERVED})

    @abstractmethod
    def asks(self) -> tuple[Ask, ...]:
        """One for each prompt. Raises InvalidRequest in our words; `called` translates."""

    @abstractmethod
    def shape(self, head: Head, form: Form | None) -> Shape:
        """The form of its answer. `form`: of the calls of tools that the model writes, if any."""

    @abstractmethod
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens; None: no logprobs at all. Raises InvalidRequest."""

    @property
    def choices(self) -> int:
        """Of each prompt."""
        return self.n or 1

    def common(self) -> dict[str, Any]:
        """What an Ask has of this. Raises InvalidRequest."""
        return {
            "sampling": self.sampling(),
            "stop": self.stops(),
            "stop_token_ids": tuple(self.stop_token_ids or ()),
            "ignore_eos": bool(self.ignore_eos),
            "format": self.format(),
            "priority": self.urgency(),
            "timeout": self.timeout,
        }

    def sampling(self) -> Sampling:
        given = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "seed": self.seed,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": _by_token_id(self.logit_bias or {}),
            "min_tokens": self.min_tokens,
            "logprobs": self.wanted_logprobs(),
        }
        return Sampling(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def format(self) -> Format | None:
        return format_of(self.response_format, self.structured_outputs)

    def called(self, field: str) -> str:
        """The client's name of one of our fields."""
        return "max_tokens" if field == "max_new_tokens" else field

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def wants_usage_always(self) -> bool:
        """vLLM's condition, too."""
        options = self.stream_options
        return options is not None and options.include_usage and options.continuous_usage_stats


def _refuse_unserved(document: Mapping[str, Any]) -> None:
    for name, harmless in UNSERVED.items():
        value = document.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            raise InvalidRequest(
                name, "is not served here and would change the answer; leave it out", "unsupported_parameter"
            )


def _by_token_id(biases: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """JSON's keys are strings. Raises InvalidRequest."""
    for key in biases:
        if not TOKEN_ID.fullmatch(key):
            raise InvalidRequest("logit_bias", f'has the key {key!r}; each must be a token id, such as "50256"')
    found = {int(key): bias for key, bias in biases.items()}  # "7" and "07" are one token
    return tuple(found.items())
