"""JSON bodies of requests, parsed strictly and refused in OpenAI's words; and what all share that ask the model."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace_server.errors import InvalidRequest
from headrace_server.request import Priority

# OpenAI's words for pydantic's.
CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "string_too_long": "string_above_max_length",
}


class JsonBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises InvalidRequest naming the field in the client's words."""
        return cls.of(json_object(raw))

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Likewise."""
        try:
            return cls.model_validate(document)
        except ValidationError as invalid:
            raise _refusal(invalid) from invalid


class ModelBody(JsonBody):
    """Of a request that is work for the model."""

    model: str
    priority: Literal["interactive", "standard", "batch"] | None = None
    service_tier: str | None = None  # OpenAI's "flex" is work that may wait; its other tiers change nothing here
    timeout: Annotated[float, Field(gt=0)] | None = None  # seconds from arrival in which the answer is of use

    def urgency(self) -> Priority:
        if self.priority is not None:
            return Priority(self.priority)
        return Priority.BATCH if self.service_tier == "flex" else Priority.STANDARD


def json_object(raw: bytes) -> dict[str, Any]:
    """Raises InvalidRequest, also for what json would take and not survive: NaN, half a surrogate, endless nesting."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as broken:
        raise InvalidRequest("body", f"is not JSON: {broken}") from broken
    if not isinstance(document, dict):
        raise InvalidRequest("body", "must be a JSON object")
    return document


def _refusal(invalid: ValidationError) -> InvalidRequest:
    """The first fault; a message of one line serves a client better than a list."""
    fault = invalid.errors(include_url=False)[0]
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    code = CODES.get(fault["type"], "invalid_type" if fault["type"].endswith("_type") else "invalid_value")
    if fault["type"] == "extra_forbidden":
        return InvalidRequest(field, "is not a known field; check its spelling or leave it out", code)
    return InvalidRequest(field, fault["msg"].removeprefix("Value error, "), code)
