"""OpenAI's answers: a completion and a chat completion, whole or in chunks."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol
from uuid import uuid4

from headrace_server.request import Finish
from headrace_server.rpc.answers import Piece, Usage
from headrace_server.rpc.scores import Candidate, Score

ERROR_CODES = {"model_not_found": "model_not_found", "authentication_error": "invalid_api_key"}  # OpenAI's, by kind
LEAST = -9999.0  # stands for minus infinity, which JSON does not have; OpenAI's number


class Shape(Protocol):
    """One answer: it keeps what is not shown yet."""

    def opening(self) -> dict[str, Any] | None:
        """The chunk before the first text, where there is one."""

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """None when there is nothing to show yet."""

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk that a client gets who asked for usage."""

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer repeat."""

    model: str
    created: int  # seconds since 1970

    def of(self, prefix: str, kind: str) -> dict[str, Any]:
        return {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": self.created, "model": self.model}


class ShownScores:
    """Holds scores back until their text is shown: those of a stop string never are."""

    def __init__(self) -> None:
        self._held: deque[Score] = deque()
        self._shown = 0  # characters

    def of(self, piece: Piece) -> list[Score]:
        self._held.extend((*piece.prompt_scores, *piece.scores))
        self._shown += len(piece.text)
        if piece.finish not in {None, Finish.STOP}:
            return self._release(len(self._held))
        return self._release(sum(1 for _ in takewhile(lambda score: score.offset < self._shown, self._held)))

    def _release(self, count: int) -> list[Score]:
        return [self._held.popleft() for _ in range(count)]


class CompletionShape:
    def __init__(self, head: Head, *, likeliest: bool = False) -> None:
        """`likeliest`: logprobs of the likeliest tokens were asked for, not of the chosen ones alone."""
        self._head = head.of("cmpl", "text_completion")
        self._likeliest = likeliest
        self._scores = ShownScores()

    def opening(self) -> None:
        return None

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        scores = self._scores.of(piece)
        return self._body(piece, scores) if piece.text or piece.finish or scores else None

    def last(self, usage: Usage) -> dict[str, Any]:
        return self._head | {"choices": [], "usage": usage_body(usage)}

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        return self._body(piece, self._scores.of(piece)) | {"usage": usage_body(usage)}

    def _body(self, piece: Piece, scores: list[Score]) -> dict[str, Any]:
        logprobs = completion_logprobs(scores, self._likeliest) if scores else None
        choice = {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
        return self._head | {"choices": [choice]}


class ChatShape:
    def __init__(self, head: Head) -> None:
        self._whole = head.of("chatcmpl", "chat.completion")
        self._part = self._whole | {"object": "chat.completion.chunk"}
        self._scores = ShownScores()

    def opening(self) -> dict[str, Any]:
        return self._delta({"role": "assistant", "content": ""}, [], None)

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        scores = self._scores.of(piece)
        if not (piece.text or piece.finish or scores):
            return None
        return self._delta({"content": piece.text} if piece.text else {}, scores, piece.finish)

    def last(self, usage: Usage) -> dict[str, Any]:
        return self._part | {"choices": [], "usage": usage_body(usage)}

    def whole(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text}
        logprobs = chat_logprobs(self._scores.of(piece))
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}
        return self._whole | {"choices": [choice], "usage": usage_body(usage)}

    def _delta(self, delta: Mapping[str, str], scores: list[Score], finish: Finish | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": chat_logprobs(scores), "finish_reason": finish}
        return self._part | {"choices": [choice]}


def completion_logprobs(scores: Sequence[Score], likeliest: bool) -> dict[str, Any]:
    """A text's first token has null. `top_logprobs` hold the chosen token too."""
    return {
        "tokens": [_text_of(score.chosen, "bytes:") for score in scores],
        "token_logprobs": [_number(score.chosen) for score in scores],
        "top_logprobs": [_by_name(score) for score in scores] if likeliest else None,
        "text_offset": [score.offset for score in scores],
    }


def chat_logprobs(scores: Sequence[Score]) -> dict[str, Any] | None:
    if not scores:
        return None
    content = [_entry(score.chosen) | {"top_logprobs": [_entry(one) for one in score.top]} for score in scores]
    return {"content": content, "refusal": None}


def _by_name(score: Score) -> dict[str, float | None] | None:
    return {_text_of(one, "bytes:"): _number(one) for one in (*score.top, score.chosen)} if score.top else None


def _entry(one: Candidate) -> dict[str, Any]:
    return {"token": _text_of(one, ""), "logprob": _number(one), "bytes": list(one.name)}


def _text_of(one: Candidate, prefix: str) -> str:
    """OpenAI's way to write a part of a character: bytes:\\xe4\\xbd, in chats without the prefix."""
    try:
        return one.name.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in one.name)


def _number(one: Candidate) -> float | None:
    return None if one.logprob is None else max(one.logprob, LEAST)


def usage_body(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
    }


def error_body(message: str, kind: str, field: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": field, "code": ERROR_CODES.get(kind)}}
