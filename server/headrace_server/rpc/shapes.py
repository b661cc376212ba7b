"""OpenAI's answers: a completion and a chat completion, whole or in chunks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from headrace_server.request import Finish
from headrace_server.rpc.answers import Usage


class Shape(Protocol):
    def opening(self) -> dict[str, Any] | None:
        """The chunk before the first text, where there is one."""

    def chunk(self, text: str, finish: Finish | None) -> dict[str, Any]: ...

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk that a client gets who asked for usage."""

    def whole(self, text: str, finish: Finish, usage: Usage) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer repeat."""

    model: str
    created: int  # seconds since 1970

    def of(self, prefix: str, kind: str) -> dict[str, Any]:
        return {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": self.created, "model": self.model}


class CompletionShape:
    def __init__(self, head: Head) -> None:
        self._head = head.of("cmpl", "text_completion")

    def opening(self) -> None:
        return None

    def chunk(self, text: str, finish: Finish | None) -> dict[str, Any]:
        return self._head | {"choices": [self._choice(text, finish)]}

    def last(self, usage: Usage) -> dict[str, Any]:
        return self._head | {"choices": [], "usage": usage_body(usage)}

    def whole(self, text: str, finish: Finish, usage: Usage) -> dict[str, Any]:
        return self.chunk(text, finish) | {"usage": usage_body(usage)}

    def _choice(self, text: str, finish: Finish | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


class ChatShape:
    def __init__(self, head: Head) -> None:
        self._whole = head.of("chatcmpl", "chat.completion")
        self._part = self._whole | {"object": "chat.completion.chunk"}

    def opening(self) -> dict[str, Any]:
        return self._delta({"role": "assistant", "content": ""}, None)

    def chunk(self, text: str, finish: Finish | None) -> dict[str, Any]:
        return self._delta({"content": text} if text else {}, finish)

    def last(self, usage: Usage) -> dict[str, Any]:
        return self._part | {"choices": [], "usage": usage_body(usage)}

    def whole(self, text: str, finish: Finish, usage: Usage) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._whole | {"choices": [choice], "usage": usage_body(usage)}

    def _delta(self, delta: Mapping[str, str], finish: Finish | None) -> dict[str, Any]:
        return self._part | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def usage_body(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
    }


def error_body(message: str, kind: str, field: str | None) -> dict[str, Any]:
    code = kind if kind == "model_not_found" else None
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}
