"""OpenAI's answers: completions and chat completions, whole or in chunks, of one choice or of several."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol
from uuid import uuid4

from headrace_server.errors import InvalidRequest, ServerError
from headrace_server.request import Finish
from headrace_server.rpc.answers import Piece
from headrace_server.rpc.scores import Candidate, Score
from headrace_server.rpc.status import status_of
from headrace_server.rpc.tool_calls import CallReader, Form, whole_calls

ERROR_CODES = {
    "model_not_found": "model_not_found",
    "authentication_error": "invalid_api_key",
    "overloaded_error": "rate_limit_exceeded",
}  # OpenAI's, by kind
LEAST = -9999.0  # stands for minus infinity, which JSON does not have; OpenAI's number


class Choice(Protocol):
    """One of an answer's choices: it keeps what is not shown yet. What it gives stands in `choices`."""

    def opening(self) -> dict[str, Any] | None:
        """Before the first text, where something comes before it."""

    def part(self, piece: Piece) -> dict[str, Any] | None:
        """Of a stream; None when there is nothing to show yet."""

    def whole(self, piece: Piece) -> dict[str, Any]: ...


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


class Shape:
    """One answer, of one choice or of several."""

    def __init__(
        self, whole: Mapping[str, Any], part: Mapping[str, Any], choices: Sequence[Choice], n: int, *, counts: bool
    ) -> None:
        """`whole`, `part`: what surrounds the choices. `n`: choices of each prompt. `counts`: in each part, too."""
        self._whole = whole
        self._part = part
        self._choices = choices
        self._n = n
        self._counts = counts
        self._prompt_tokens: dict[int, int] = {}  # by prompt
        self._cached_tokens: dict[int, int] = {}  # by prompt: of the choice for which it was computed
        self._generated = 0

    def openings(self) -> Iterator[dict[str, Any]]:
        for choice in self._choices:
            if opening := choice.opening():
                yield self._chunk(opening)

    def chunk(self, index: int, piece: Piece) -> dict[str, Any] | None:
        """None when there is nothing to show yet."""
        self._count(index, piece)
        part = self._choices[index].part(piece)
        return self._chunk(part) if part else None

    def last(self) -> dict[str, Any]:
        """The chunk that a client gets who asked for usage."""
        return {**self._part, "choices": [], "usage": self._usage()}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """One piece of each choice."""
        for index, piece in enumerate(pieces):
            self._count(index, piece)
        choices = [choice.whole(piece) for choice, piece in zip(self._choices, pieces, strict=True)]
        return {**self._whole, "choices": choices, "usage": self._usage()}

    def _count(self, index: int, piece: Piece) -> None:
        self._generated += len(piece.token_ids)
        if piece.prompt_tokens:
            self._prompt_tokens[index // self._n] = piece.prompt_tokens
        if piece.usage is not None:
            cached = piece.usage.cached_tokens
            self._cached_tokens[index // self._n] = min(cached, self._cached_tokens.get(index // self._n, cached))

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._part, "choices": [choice]}
        return chunk | {"usage": self._usage()} if self._counts else chunk

    def _usage(self) -> dict[str, Any]:
        prompt = sum(self._prompt_tokens.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._generated,
            "total_tokens": prompt + self._generated,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached_tokens.values())},
        }


def completion_shape(head: Head, choices: int, n: int, *, likeliest: bool = False, counts: bool = False) -> Shape:
    """`likeliest`: logprobs of the likeliest tokens were asked for, not of the chosen ones alone."""
    around = head.of("cmpl", "text_completion")
    each = [CompletionChoice(index, likeliest=likeliest) for index in range(choices)]
    return Shape(around, around, each, n, counts=counts)


def chat_shape(head: Head, n: int, form: Form | None = None, *, one_call: bool = False, counts: bool = False) -> Shape:
    """`form`: how the model writes its calls of tools; None: it is not to call any. `one_call`: no second one."""
    whole = head.of("chatcmpl", "chat.completion")
    each = [ChatChoice(index, None if form is None else CallReader(form, one_call=one_call)) for index in range(n)]
    return Shape(whole, whole | {"object": "chat.completion.chunk"}, each, n, counts=counts)


class CompletionChoice:
    def __init__(self, index: int, *, likeliest: bool = False) -> None:
        self._index = index
        self._likeliest = likeliest
        self._scores = ShownScores()

    def opening(self) -> None:
        return None

    def part(self, piece: Piece) -> dict[str, Any] | None:
        scores = self._scores.of(piece)
        return self._body(piece, scores) if piece.text or piece.finish or scores else None

    def whole(self, piece: Piece) -> dict[str, Any]:
        return self._body(piece, self._scores.of(piece))

    def _body(self, piece: Piece, scores: list[Score]) -> dict[str, Any]:
        logprobs = completion_logprobs(scores, self._likeliest) if scores else None
        return {"index": self._index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}


class ChatChoice:
    def __init__(self, index: int = 0, calls: CallReader | None = None) -> None:
        """`calls` finds those of tools in the text; None: all of it is text."""
        self._index = index
        self._calls = calls
        self._scores = ShownScores()

    def opening(self) -> dict[str, Any]:
        return self._part({"role": "assistant", "content": ""}, [], None)

    def part(self, piece: Piece) -> dict[str, Any] | None:
        scores = self._scores.of(piece)
        delta = self._delta(piece)
        if not (delta or piece.finish or scores):
            return None
        return self._part(delta, scores, self._finish(piece))

    def whole(self, piece: Piece) -> dict[str, Any]:
        logprobs = chat_logprobs(self._scores.of(piece))
        message = {"role": "assistant", "content": piece.text} if self._calls is None else self._message(piece)
        finish = self._finish(piece)
        return {"index": self._index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if self._calls is None:
            return {"content": piece.text} if piece.text else {}
        text, calls = self._calls.read(piece.text, last=piece.finish is not None)
        return ({"content": text} if text else {}) | ({"tool_calls": [call.delta() for call in calls]} if calls else {})

    def _message(self, piece: Piece) -> dict[str, Any]:
        assert self._calls is not None
        text, parts = self._calls.read(piece.text, last=True)
        calls = whole_calls(parts)
        message = {"role": "assistant", "content": text or (None if calls else "")}
        return message | {"tool_calls": calls} if calls else message

    def _finish(self, piece: Piece) -> str | None:
        called = self._calls is not None and self._calls.called
        return "tool_calls" if called and piece.finish is Finish.STOP else piece.finish

    def _part(self, delta: Mapping[str, Any], scores: list[Score], finish: str | None) -> dict[str, Any]:
        logprobs = chat_logprobs(scores)
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


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


def error_body(message: str, kind: str, field: str | None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": field, "code": code or ERROR_CODES.get(kind)}}


def refusal_body(error: ServerError) -> dict[str, Any]:
    """Raises KeyError for an error that must not reach a client."""
    if isinstance(error, InvalidRequest):
        return error_body(str(error), status_of(error).kind, error.field, error.code)
    return error_body(str(error), status_of(error).kind, None)
