"""Structured output as callers ask for it: the answer as a whole has to be JSON of a schema, or to match a regex."""

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace_server.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

LONGEST = 128 * 1024  # characters of a schema or regex: OpenAI's own limit is about the same
ANY_OBJECT = '{"type":"object"}'


# llguidance's: how a JSON Schema is read.
SCHEMA_OPTIONS: "JsonCompileOptions" = {
    # A space after "," and ":" as the model likes; with all of JSON's whitespace some never stop it.
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,  # a keyword that is not enforced is refused, not ignored
}


class Kind(StrEnum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"  # made here, never by a caller


@dataclass(frozen=True, slots=True)
class Format:
    """Equal formats have one grammar, whatever they were called. Raises InvalidRequest when `text` is too long."""

    kind: Kind
    text: (
        str  # a JSON Schema as JSON, a regex that the whole answer matches (syntax of Rust's regex crate), or a grammar
    )
    field: str = dataclasses.field(compare=False)  # the caller's name of it, for refusals

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST:
            raise InvalidRequest(self.field, f"has {len(self.text)} characters; at most {LONGEST} are allowed")


def any_json_object(field: str) -> Format:
    return Format(Kind.JSON_SCHEMA, ANY_OBJECT, field)


def check_goes_with(wanted: Format | None, ignore_eos: bool) -> None:
    """Raises InvalidRequest: a grammar ends with an end-of-sequence token, which cannot be ignored then."""
    if wanted is not None and ignore_eos:
        raise InvalidRequest("ignore_eos", f"does not go with {wanted.field}, which says where the answer ends")


class NamedSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str | None = None  # OpenAI's; like `description` it changes nothing here
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None  # a schema is always enforced, all of it


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('needs `json_schema` with type "json_schema", and only with it')
        return self

    def format(self) -> Format | None:
        if self.json_schema is not None:
            # In the caller's order: that is the order in which the model writes the properties.
            schema = json.dumps(self.json_schema.schema_, separators=(",", ":"))
            return Format(Kind.JSON_SCHEMA, schema, "response_format.json_schema.schema")
        return any_json_object("response_format") if self.type == "json_object" else None


class StructuredOutputs(BaseModel):
    """vLLM's name for what OpenAI does not have."""

    model_config = ConfigDict(extra="forbid", strict=True)
    regex: str

    def format(self) -> Format:
        return Format(Kind.REGEX, self.regex, "structured_outputs.regex")


def format_of(response: ResponseFormat | None, structured: StructuredOutputs | None) -> Format | None:
    """What a body asks for in all. Raises InvalidRequest."""
    by_response = None if response is None else response.format()
    if structured is None:
        return by_response
    if by_response is not None:
        raise InvalidRequest("structured_outputs", "does not go with `response_format`; leave one of them out")
    return structured.format()
