"""Tools that a chat offers to the model, and how an answer is held to calling them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.structured import SCHEMA_OPTIONS, Format, Kind
from headrace_server.rpc.tool_calls import BEGIN, END, Form

MOST_TOOLS = 128  # as OpenAI's
NO_FORM = (
    "are not served with this model: its chat template writes no calls of tools in a form that is known here "
    "(Hermes' <tool_call>, or Llama 3's JSON); leave them out"
)
NO_REGEX = (
    "does not go with `tools` that the model may call or not: give a `response_format` of JSON, or set `tool_choice`"
)
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON Schema of the arguments; None: there are none
    strict: bool | None = None  # a call that is asked for is always held to its schema, one that is not never


class Tool(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["function"]
    function: Function


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Name


class ToolChoice(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["none", "auto", "required", "function"]
    function: Named | None = None

    @model_validator(mode="after")
    def _function_where_it_belongs(self) -> Self:
        if (self.type == "function") != (self.function is not None):
            raise ValueError('needs `function` with type "function", and only with it')
        return self


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of one chat."""

    tools: tuple[Mapping[str, Any], ...]  # as the caller wrote them: templates show them to the model
    must_call: tuple[str, ...] = ()  # one of these; none: the model decides
    one_call: bool = False  # at most one

    def format(self, form: Form | None, answer: Format | None = None) -> Format | None:
        """What the model may write; None: free text. `answer`: what an answer that calls nothing has to be.

        Raises InvalidRequest when the model knows no form of calls, and for an `answer` of another kind than JSON.
        """
        if form is None:
            raise InvalidRequest("tools", NO_FORM)
        if self.must_call:
            return Format(Kind.LARK, _grammar(form, self), "tools")
        if answer is None:
            return None
        if answer.kind is not Kind.JSON_SCHEMA:
            raise InvalidRequest(answer.field, NO_REGEX)
        return Format(Kind.LARK, _grammar(form, self, answer), "tools")


def offer_of(tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool | None) -> Offer | None:
    """None: the model is not told of any tool. Raises InvalidRequest."""
    wanted = "auto" if choice is None else choice.type
    if not tools:
        if wanted in {"required", "function"}:
            raise InvalidRequest("tool_choice", f"is {wanted!r} and there are no `tools`; add them or leave it out")
        return None
    if wanted == "none":
        return None
    names = tuple(tool.function.name for tool in tools)
    if choice is not None and choice.function is not None and choice.function.name not in names:
        raise InvalidRequest("tool_choice.function.name", f"{choice.function.name!r} is none of `tools`: {names}")
    given = tuple(tool.model_dump(exclude_unset=True) for tool in tools)
    if wanted == "auto":
        return Offer(given, one_call=parallel is False)
    if choice is not None and choice.function is not None:
        return Offer(given, (choice.function.name,), one_call=True)
    return Offer(given, names, one_call=parallel is False)


def _grammar(form: Form, offer: Offer, answer: Format | None = None) -> str:
    """In llguidance's dialect of Lark. The arguments are a schema of their own, so that its $ref stay right."""
    functions = [tool["function"] for tool in offer.tools]
    allowed = [each for each in functions if not offer.must_call or each["name"] in offer.must_call]
    key = "arguments" if form is Form.HERMES else "parameters"
    before, after = (f"{BEGIN}\n", f"\n{END}") if form is Form.HERMES else ("", "")
    several = "" if offer.one_call or form is Form.LLAMA else ' ("\\n" call)*'
    lines = [
        f"start: call{several}" if answer is None else f"start: calls | answer\ncalls: call{several}",
        "call: " + " | ".join(f"call{place}" for place in range(len(allowed))),
    ]
    if answer is not None:
        lines.append(f"answer: %json {json.dumps({**json.loads(answer.text), 'x-guidance': SCHEMA_OPTIONS})}")
    for place, function in enumerate(allowed):
        head = _head(function["name"], key, before, in_pieces=answer is not None and form is Form.LLAMA)
        lines.append(f"call{place}: {head} arguments{place} {json.dumps('}' + after)}")
        lines.append(f"arguments{place}: %json {json.dumps(_schema(function.get('parameters')))}")
    return "\n".join(lines)


def _head(name: str, key: str, before: str, *, in_pieces: bool) -> str:
    """Of a call, up to its arguments. `in_pieces`: cut as JSON is, where JSON may stand in its place; the lexer follows
    the longest piece, and would not come back from one of all this."""
    if not in_pieces:
        return json.dumps(f'{before}{{"name": "{name}", "{key}": ')
    pieces = ('"name"', f'"{name}"', f'"{key}"')
    first, second, third = map(json.dumps, pieces)
    return f'"{{" {first} /: ?/ {second} /, ?/ {third} /: ?/'


def _schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """An object always, and under our options: they are not its author's to choose."""
    schema = {"properties": {}, "additionalProperties": False} if parameters is None else dict(parameters)
    return {"type": "object", **schema, "x-guidance": SCHEMA_OPTIONS}
