"""What the HTTP door takes and gives, as an OpenAPI document: made of the very bodies that parse its requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.openai import IGNORED
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from headrace_server.rpc.tokenise import DetokenizeBody, TokenizeBody

TEMPLATE = "#/components/schemas/{model}"
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    reply: Schema
    body: type[BaseModel] | None = None
    streams: bool = False  # server-sent events, when the body says so
    not_ready: bool = False  # 503 has the same reply


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBERS = {"type": "array", "items": {"type": "number"}}
FINISH: Schema = {"enum": ["stop", "length", "tool_calls"]}
USAGE = _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
ERROR = _object(error=_object(message=TEXT, type=TEXT, param=TEXT_OR_NULL, code=TEXT_OR_NULL))
CHOICE = _object(index=COUNT, text=TEXT, finish_reason=FINISH)
MESSAGE = _object(role={"const": "assistant"}, content=TEXT_OR_NULL)
CHAT_CHOICE = _object(index=COUNT, message=MESSAGE, finish_reason=FINISH)
AROUND = {"id": TEXT, "created": COUNT, "model": TEXT, "usage": USAGE}
VECTOR = _object(object={"const": "embedding"}, index=COUNT, embedding={"anyOf": [NUMBERS, TEXT]})
RANKED = _object(index=COUNT, relevance_score={"type": "number"})
SCORED = _object(index=COUNT, object={"const": "score"}, score={"type": "number"})
CARD = _object(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT)
PHASE = _object(phase=TEXT)

OPERATIONS = (
    Operation(
        "post",
        "/v1/completions",
        "Continue one or several prompts",
        _object(object={"const": "text_completion"}, choices=_list(CHOICE), **AROUND),
        CompletionBody,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a chat",
        _object(object={"const": "chat.completion"}, choices=_list(CHAT_CHOICE), **AROUND),
        ChatBody,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Texts to vectors",
        _object(
            object={"const": "list"},
            data=_list(VECTOR),
            model=TEXT,
            usage=_object(prompt_tokens=COUNT, total_tokens=COUNT),
        ),
        EmbeddingBody,
    ),
    *(
        Operation("post", path, "Documents by how well they fit to a query", _object(results=_list(RANKED)), RerankBody)
        for path in ("/v1/rerank", "/rerank", "/v2/rerank")
    ),
    *(
        Operation("post", path, "How well pairs of texts fit", _object(data=_list(SCORED)), ScoreBody)
        for path in ("/v1/score", "/score")
    ),
    Operation(
        "post",
        "/tokenize",
        "A text or a chat to token ids",
        _object(count=COUNT, max_model_len=COUNT, tokens=_list(COUNT), token_strs={"type": ["array", "null"]}),
        TokenizeBody,
    ),
    Operation("post", "/detokenize", "Token ids to text", _object(prompt=TEXT), DetokenizeBody),
    Operation("get", "/tokenizer_info", "Special tokens and chat template", {"type": "object"}),
    Operation("get", "/v1/models", "The model that is served", _object(object={"const": "list"}, data=_list(CARD))),
    Operation("get", "/version", "Of this server", _object(version=TEXT)),
    Operation("get", "/health", "Answers from the start", PHASE),
    Operation("get", "/ready", "200 when requests are answered", PHASE, not_ready=True),
    Operation("get", "/ping", "Likewise, as SageMaker asks", {"type": "object"}, not_ready=True),
)


def document(version: str, operations: Sequence[Operation] = OPERATIONS) -> Schema:
    bodies = [one.body for one in operations if one.body is not None]
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=TEMPLATE)
    components: dict[str, Schema] = {**schemas["$defs"], "Error": ERROR}
    for body in (CompletionBody, ChatBody, EmbeddingBody):
        taken = {name: {"description": "Taken, and changes nothing."} for name in sorted(IGNORED)}
        components[body.__name__]["properties"] |= taken
    paths: dict[str, dict[str, Schema]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": version, "description": "OpenAI's API, as far as it is served."},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(one: Operation) -> Schema:
    content: dict[str, Schema] = {"application/json": {"schema": one.reply}}
    if one.streams:
        content["text/event-stream"] = {"schema": TEXT}
    replies = {"200": {"description": "Answered.", "content": content}}
    if one.not_ready:
        replies["503"] = {"description": "Not ready.", "content": content}
    replies["default"] = {
        "description": "Refused or failed: 400 names the field; 429 and 503 say when to come back in Retry-After.",
        "content": {"application/json": {"schema": {"$ref": TEMPLATE.format(model="Error")}}},
    }
    operation: Schema = {"summary": one.summary, "responses": replies}
    if one.body is not None:
        operation["requestBody"] = {"required": True, "content": _taken(one.body)}
    return operation


def _taken(body: type[BaseModel]) -> Mapping[str, Schema]:
    return {"application/json": {"schema": {"$ref": TEMPLATE.format(model=body.__name__)}}}
