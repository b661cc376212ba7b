"""The lines of an offline job, as OpenAI's batches have them: a request each, and a result each.

The command that sends a file and the server that keeps one check it by the same rules, before the first request runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field

from headrace_server.config import Task
from headrace_server.errors import InvalidRequest
from headrace_server.request import Priority
from headrace_server.rpc.body import JsonBody, json_object
from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import Body
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from headrace_server.rpc.whole import in_the_words_of

AnyBody = Body | EmbeddingBody | RerankBody | ScoreBody
BODIES: Mapping[str, type[AnyBody]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/rerank": RerankBody,
    "/v1/score": ScoreBody,
}
# By url: what a model has to be served for.
TASKS: Mapping[str, frozenset[Task]] = {
    "/v1/completions": frozenset({Task.GENERATE}),
    "/v1/chat/completions": frozenset({Task.GENERATE}),
    "/v1/embeddings": frozenset({Task.EMBED}),
    "/v1/rerank": frozenset({Task.EMBED, Task.RERANK}),
    "/v1/score": frozenset({Task.EMBED, Task.RERANK}),
}
LONGEST_ID = 512  # characters
LONGEST_LINE = 4 * 2**20  # bytes; as of a request over HTTP


class Code(StrEnum):
    """Why a line cannot run, or did not. Found in a batch's `errors` and in the `error` of a result."""

    INVALID_LINE = "invalid_json_line"
    INVALID_REQUEST = "invalid_request"
    DUPLICATE_ID = "duplicate_custom_id"
    WRONG_ENDPOINT = "mismatched_endpoint"
    UNKNOWN_MODEL = "model_not_found"
    EMPTY = "empty_file"
    TOO_MANY = "too_many_requests"
    NOT_JSON = "answer_is_not_json"
    EXPIRED = "batch_expired"
    CANCELLED = "batch_cancelled"
    SERVER_FAILED = "server_failed"


@dataclass(frozen=True, slots=True)
class Line:
    """A request that may run."""

    number: int  # in its file, from 1
    custom_id: str
    url: str  # a key of BODIES
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file cannot run."""

    code: Code
    message: str
    line: int | None = None  # in its file, from 1; None: the file as a whole
    field: str | None = None

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class _Shape(JsonBody):
    custom_id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


def read_lines(raw: Iterable[bytes], endpoint: str | None = None) -> Iterator[Line | Fault]:
    """Every line in turn; empty ones are passed over. `endpoint`: the only url allowed; None: any that is served."""
    seen: dict[str, int] = {}
    for number, text in enumerate(raw, start=1):
        if not text.strip():
            continue
        shape = _shape(number, text)
        if isinstance(shape, Fault):
            yield shape
        elif (first := seen.setdefault(shape.custom_id, number)) != number:
            message = f"custom_id: {shape.custom_id!r} is that of line {first} too; give each line its own"
            yield Fault(Code.DUPLICATE_ID, message, number, "custom_id")
        else:
            yield _line(number, shape, tuple(BODIES) if endpoint is None else (endpoint,))


def _shape(number: int, text: bytes) -> _Shape | Fault:
    if len(text) > LONGEST_LINE:
        message = f"has {len(text)} bytes; at most {LONGEST_LINE} are allowed, shorten it"
        return Fault(Code.INVALID_LINE, message, number)
    try:
        document = json_object(text)
    except InvalidRequest as no_object:
        return Fault(Code.INVALID_LINE, f"{no_object.message}; write one JSON object a line", number)
    try:
        return _Shape.of(document)
    except InvalidRequest as refusal:
        return Fault(Code.INVALID_REQUEST, str(refusal), number, refusal.field)


def _line(number: int, shape: _Shape, urls: tuple[str, ...]) -> Line | Fault:
    if shape.url not in urls:
        return Fault(Code.WRONG_ENDPOINT, f"url: is {shape.url!r}; must be {' or '.join(urls)}", number, "url")
    try:
        _check_body(shape)
    except InvalidRequest as invalid:
        field = f"body.{invalid.field}"
        return Fault(Code.INVALID_REQUEST, f"{field}: {invalid.message}", number, field)
    return Line(number, shape.custom_id, shape.url, shape.body)


def _check_body(shape: _Shape) -> None:
    """Raises InvalidRequest for what no model could answer; what depends on the model its server finds."""
    body = BODIES[shape.url].of(shape.body)
    if isinstance(body, Body) and body.stream:
        raise InvalidRequest("stream", "is true; nobody waits for an offline answer, leave it out")
    if body.priority not in {None, Priority.BATCH}:
        raise InvalidRequest("priority", f"is {body.priority}; offline requests are always `batch`, leave it out")
    if isinstance(body, Body):
        with in_the_words_of(body):
            body.asks()


def new_result_id() -> str:
    return f"batch_req_{uuid4().hex}"


def answered(custom_id: str, status: int, request_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a request that was answered, be it with a refusal. `status` is HTTP's."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": new_result_id(), "custom_id": custom_id, "response": response, "error": None}


def unanswered(custom_id: str, code: Code, message: str) -> dict[str, Any]:
    """The result of a request that was not answered, and never will be."""
    error = {"code": code, "message": message}
    return {"id": new_result_id(), "custom_id": custom_id, "response": None, "error": error}
