"""Bodies that nobody would write, against the real HTTP door: no 5xx, no crash, and every reply as it is documented."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import schemathesis
from embed_server import embed_server
from headrace_server.embedding import Judges
from headrace_server.errors import InvalidRequest
from headrace_server.rpc.body import json_object
from headrace_server.rpc.chat import ChatBody
from headrace_server.rpc.completions import CompletionBody
from headrace_server.rpc.embeddings import EmbeddingBody
from headrace_server.rpc.http import RERANK, SCORE
from headrace_server.rpc.openapi import OPERATIONS
from headrace_server.rpc.rerank import RerankBody, ScoreBody
from headrace_server.rpc.shapes import Head, refusal_body
from headrace_server.rpc.tokenise import DetokenizeBody, TokenizeBody
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_server import NAME, PAGES, open_server
from schemathesis.checks import (
    CheckFunction,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from scripted_runner import ScriptedRunner

CHECKS: list[CheckFunction] = [status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 15  # of each operation
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
PATHS = [one.path for one in OPERATIONS]


@asynccontextmanager
async def a_server(model: Path, runner: ScriptedRunner, path: str) -> AsyncIterator[str]:
    """Its address. What is left behind is counted when the block is left."""
    if path == "/v1/embeddings" or path in {*RERANK, *SCORE}:
        async with embed_server(model) as embedder:
            yield embedder.http
        return
    async with open_server(model, runner) as server:
        yield server.http
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        assert server.doors.arrivals.inside == 0


def document_of(address: str) -> dict[str, Any]:
    loaded: dict[str, Any] = schemathesis.openapi.from_url(f"{address}/openapi.json").raw_schema
    return loaded


def try_all(address: str, path: str) -> None:
    """Blocks: to be called in a thread."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for result in schema.include(path=path).get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue

            @FUZZ
            @given(case=operation.as_strategy(generation_mode=mode))
            def tried(case: Any) -> None:
                if isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = NAME  # most would be refused for it, and see nothing of the server
                    case.body.pop("timeout", None)  # too short a one is a 504, rightly
                    if type(choices := case.body.get("n")) is int:
                        case.body["n"] = min(choices, 5)  # a hundred are tried elsewhere, and take seconds
                response = case.call(timeout=120)
                assert response.status_code < 500, response.text
                case.validate_response(response, checks=CHECKS)

            tried()


@pytest.mark.parametrize("path", PATHS)
async def test_whatever_the_document_allows_and_forbids_is_answered_as_documented(
    model: Path, runner: ScriptedRunner, path: str
) -> None:
    async with a_server(model, runner, path) as address:
        await asyncio.to_thread(try_all, address, path)


async def test_the_document_is_of_the_paths_that_are_served(model: Path, runner: ScriptedRunner) -> None:
    async with a_server(model, runner, "/") as address:
        document = await asyncio.to_thread(document_of, address)
        async with aiohttp.ClientSession(address) as session:
            for path, methods in document["paths"].items():
                for method in methods:
                    async with session.request(method, path, data=b"") as response:
                        assert response.status in {200, 400}, path
    chat = document["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "tools", "n", "response_format", "user", "top_k"} <= chat.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES: list[Any] = [
    CompletionBody, ChatBody, EmbeddingBody, TokenizeBody, DetokenizeBody, RerankBody, ScoreBody,
]  # fmt: skip


def fields_of(body: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Its own fields with values of any kind; many are near to what is right."""
    near = JSON | st.sampled_from(
        [
            "In",
            [5],
            [[5]],
            [{"role": "user", "content": "In"}],
            [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
            [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
            {"type": "json_schema", "json_schema": {"schema": {}}},
            {"include_usage": True, "continuous_usage_stats": True},
            {"5": -100},
            ["In", {"text": "the"}],
            ["In", "the"],
        ]
    )
    named = st.fixed_dictionaries({}, optional=dict.fromkeys(body.model_fields, near))
    return named.map(lambda document: {"model": NAME, "prompt": "In"} | document)


@given(raw=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("body", BODIES)
def test_any_bytes_are_a_body_or_are_refused_with_a_field(body: Any, raw: bytes) -> None:
    parsed_or_refused(lambda: body.parse(raw))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("body", BODIES)
def test_any_values_are_a_request_or_are_refused_with_a_field(body: Any, data: st.DataObject) -> None:
    document = data.draw(fields_of(body))

    def read() -> None:
        parsed = body.parse(json.dumps(document).encode())
        if isinstance(parsed, CompletionBody | ChatBody):
            parsed.asks()
            parsed.shape(Head(NAME, 0), None)
            parsed.wants_usage_always()
        if isinstance(parsed, EmbeddingBody):
            parsed.ask()
        if isinstance(parsed, RerankBody | ScoreBody):
            for judges in Judges:
                parsed.match().ask(judges)

    parsed_or_refused(read)


def parsed_or_refused(read: Callable[[], object]) -> None:
    try:
        read()
    except InvalidRequest as refused:
        told = refusal_body(refused)["error"]
    else:
        return
    assert told["param"]
    orjson.dumps(told)  # it can be told


@given(raw=st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_what_parses_is_what_json_says(raw: bytes) -> None:
    try:
        found = json_object(raw)
    except InvalidRequest:
        return
    assert found == json.loads(raw)


RAW = [
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS to a door without"),
    pytest.param(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", id="a negative length"),
    pytest.param(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", id="a body that ends early"
    ),
    pytest.param(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="no chunk"
    ),
    pytest.param(b"GET /%ED%A0%80%FF HTTP/1.1\r\nHost: x\r\n\r\n", id="a path that is no text"),
    pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="an endless path"),
    pytest.param(b"GET /v1/models/%00%0a HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n", id="a model of control characters"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
]


@pytest.mark.parametrize("sent", RAW)
async def test_what_is_hardly_http_ends_its_connection_and_no_other(
    model: Path, runner: ScriptedRunner, sent: bytes
) -> None:
    async with open_server(model, runner) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.doors.http_port)
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(120):
            answer = await reader.read()
        writer.close()
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
        async with aiohttp.ClientSession(server.http) as session, session.get("/health") as response:
            assert response.status == 200
