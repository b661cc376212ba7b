"""Calls of tools, found in the text as the model writes it, in the two forms that most models were trained on.

    Hermes, Qwen:  text <tool_call>{"name": "f", "arguments": {...}}</tool_call> <tool_call>...</tool_call>
    Llama 3:       {"name": "f", "parameters": {...}}; {...}     the whole answer, or it is text

Arguments are passed on as they come, character by character as the model wrote them. What begins like a call and is
none is text: nothing that the model said is lost.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Any
from uuid import uuid4

BEGIN, END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # Llama's, where its tokenizer shows it
# The usual beginning of a call. Any other order of its keys is read too, once the call is complete.
HEADER = re.compile(
    r"""\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)"""
)


class Form(StrEnum):
    HERMES = "hermes"
    LLAMA = "llama"


@dataclass(frozen=True, slots=True)
class CallPart:
    """What is new of a call. Its first part has the name."""

    index: int  # of the call in the answer
    arguments: str = ""  # what follows of the JSON
    name: str | None = None

    def delta(self) -> dict[str, Any]:
        if self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        return {"index": self.index} | _call(self.name, self.arguments)


def whole_calls(parts: Sequence[CallPart]) -> list[dict[str, Any]]:
    """OpenAI's `tool_calls` of a message."""
    return [
        _call(first.name, "".join(part.arguments for part in parts if part.index == first.index))
        for first in parts
        if first.name is not None
    ]


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}


class _State(Enum):
    TEXT = auto()
    MAYBE = auto()  # Llama's: where a call may begin
    HEAD = auto()  # in a call, before its arguments
    ARGUMENTS = auto()
    TAIL = auto()  # in a call, after them


class CallReader:
    """Of one answer."""

    def __init__(self, form: Form, *, one_call: bool = False) -> None:
        """`one_call`: a second one is left out."""
        self._form = form
        self._one_call = one_call
        self._state = _State.TEXT if form is Form.HERMES else _State.MAYBE
        self._held = ""
        self._searched = 0  # characters of `_held` in which the end of a call was looked for
        self._depth = _Depth()
        self._calls = 0
        self._separates = False  # is white space what comes after a call? It is no text until other text came

    @property
    def called(self) -> bool:
        return self._calls > 0

    def read(self, text: str, *, last: bool) -> tuple[str, list[CallPart]]:
        """What the next text of the answer brings: text to show, and parts of calls. Not to be called after `last`."""
        self._held += text
        news = list(self._news())
        if last:
            news += self._rest()
        shown = "".join(one for one in news if isinstance(one, str))
        parts = [one for one in news if isinstance(one, CallPart)]
        return shown, [part for part in parts if not (self._one_call and part.index)]

    def _news(self) -> Iterator[str | CallPart]:
        reads = {
            _State.TEXT: self._text,
            _State.MAYBE: self._maybe,
            _State.HEAD: self._head,
            _State.ARGUMENTS: self._arguments,
            _State.TAIL: self._tail,
        }
        while True:
            before = (self._state, len(self._held))
            yield from reads[self._state]()
            if (self._state, len(self._held)) == before:
                return

    def _rest(self) -> Iterator[str | CallPart]:
        """The answer has ended."""
        if self._state is _State.HEAD:
            yield from self._complete(self._held)
        elif self._state in {_State.TEXT, _State.MAYBE}:
            text = self._held.lstrip() if self._separates else self._held
            yield text.rstrip() if self.called else text
        self._held = ""

    def _text(self) -> Iterator[str | CallPart]:
        if self._form is Form.LLAMA:
            yield self._take(len(self._held))
            return
        if self._separates:
            self._held = self._held.lstrip()
        place = self._held.find(BEGIN)
        shown = self._take(len(self._held) - _held_back(self._held) if place < 0 else place)
        self._separates = self._separates and not shown
        if place >= 0:
            shown = shown.rstrip()
            self._take(len(BEGIN))
            self._enter(_State.HEAD)
        yield shown

    def _maybe(self) -> Iterator[str | CallPart]:
        rest = self._held.lstrip(" \t\r\n;" if self.called else " \t\r\n")
        if not rest or PYTHON_TAG.startswith(rest):
            return
        if rest.startswith(PYTHON_TAG):
            self._held = rest.removeprefix(PYTHON_TAG)
        elif rest.startswith("{"):
            self._held = rest
            self._enter(_State.HEAD)
        else:
            self._enter(_State.TEXT)
        yield from ()

    def _head(self) -> Iterator[str | CallPart]:
        if found := HEADER.match(self._held):
            self._take(found.end())
            self._depth = _Depth()
            self._enter(_State.ARGUMENTS)
            yield self._begun(json.loads(found[1], strict=False))
            return
        if self._form is Form.HERMES:
            place = self._held.find(END, self._searched)
            self._searched = max(0, len(self._held) - len(END))
            if place >= 0:
                call = self._take(place)
                self._take(len(END))
                self._enter(_State.TEXT)
                yield from self._complete(call)

    def _arguments(self) -> Iterator[str | CallPart]:
        length = self._depth.end_of(self._held)
        if text := self._take(len(self._held) if length is None else length):
            yield CallPart(self._calls - 1, text)
        if length is not None:
            self._enter(_State.TAIL)

    def _tail(self) -> Iterator[str | CallPart]:
        end = END if self._form is Form.HERMES else "}"
        place = self._held.find(end)
        if place >= 0:
            self._take(place + len(end))
            self._enter(_State.TEXT if self._form is Form.HERMES else _State.MAYBE)
        else:
            self._take(max(0, len(self._held) - len(end)))
        yield from ()

    def _complete(self, text: str) -> Iterator[str | CallPart]:
        """A call whose keys came in another order; or text, where it is none."""
        found = _parsed(text)
        if found is None:
            self._separates = False
            yield (BEGIN if self._form is Form.HERMES else "") + text
        else:
            name, arguments = found
            begun = self._begun(name)
            yield CallPart(begun.index, arguments, name)

    def _begun(self, name: str) -> CallPart:
        self._calls += 1
        self._separates = True
        return CallPart(self._calls - 1, name=name)

    def _enter(self, state: _State) -> None:
        self._state, self._searched = state, 0

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


class _Depth:
    """Finds where a JSON object ends, without parsing it."""

    def __init__(self) -> None:
        self._open = 0
        self._in_string = False
        self._escaped = False

    def end_of(self, text: str) -> int | None:
        """Characters of it up to the end of the object; None: it goes on."""
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            else:
                self._open += (character in "{[") - (character in "}]")
                if not self._open:
                    return place + 1
        return None


def _held_back(text: str) -> int:
    """Characters at its end that are not to be shown yet: white space before a call, and what may begin one."""
    tag = next((length for length in range(len(BEGIN) - 1, 0, -1) if text.endswith(BEGIN[:length])), 0)
    before = text[: len(text) - tag]
    return len(text) - len(before.rstrip())


def _parsed(text: str) -> tuple[str, str] | None:
    """Name and arguments as JSON."""
    try:
        call = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
