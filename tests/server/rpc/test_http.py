"""The HTTP door, byte by byte where a client library would hide it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from headrace_server.request import Finish
from headrace_server.rpc.readiness import Phase
from open_server import CONTEXT, NAME, PAGES, OpenServer, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import save_tiny_tokenizer

COMPLETION = {"model": NAME, "prompt": "In"}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "In"}]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@asynccontextmanager
async def a_session(server: OpenServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.http) as session:
        yield session


async def post(server: OpenServer, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body)
    async with a_session(server) as session, session.post(path, data=data) as response:
        return response.status, await response.json()


async def get(server: OpenServer, path: str) -> tuple[int, dict[str, Any]]:
    async with a_session(server) as session, session.get(path) as response:
        return response.status, await response.json()


REFUSED_COMPLETIONS = [
    pytest.param({"prompt": ""}, "prompt", "is empty", id="empty prompt"),
    pytest.param({"prompt": []}, "prompt", "is empty", id="no tokens"),
    pytest.param({"prompt": None}, "prompt", "must be a string, a list of token ids", id="null prompt"),
    pytest.param({"prompt": ["a", 5]}, "prompt", "must be a string, a list of token ids", id="a mixture"),
    pytest.param({"prompt": ["a", ""]}, "prompt", "is empty", id="an empty prompt among others"),
    pytest.param({"prompt": ["a"] * 129}, "prompt", "at most 128 are served in one request", id="too many prompts"),
    pytest.param({"prompt": ["a"] * 2, "n": 65}, "n", "asks for 130 choices", id="too many choices of several prompts"),
    pytest.param({"prompt": [-1]}, "prompt", "token id -1 is outside 0..", id="negative token"),
    pytest.param({"prompt": [10**6]}, "prompt", "token id 1000000 is outside 0..", id="unknown token"),
    pytest.param({"prompt": [5] * CONTEXT}, "prompt", f"at most {CONTEXT - 1}", id="prompt beyond the context"),
    pytest.param({"max_tokens": 0}, "max_tokens", "at least 1", id="no new token"),
    pytest.param({"max_tokens": -1}, "max_tokens", "at least 1", id="negative length"),
    pytest.param({"max_tokens": CONTEXT}, "max_tokens", f"must not exceed {CONTEXT}", id="answer beyond the context"),
    pytest.param({"max_tokens": "5"}, "max_tokens", "valid integer", id="length in words"),
    pytest.param({"temperature": float("nan")}, "body", "is not JSON", id="NaN"),
    pytest.param({"temperature": 2.1}, "temperature", "to 2", id="too hot"),
    pytest.param({"top_p": 0}, "top_p", "above 0", id="top_p of nothing"),
    pytest.param({"top_p": 1.5}, "top_p", "at most 1", id="top_p above one"),
    pytest.param({"seed": 2**63}, "seed", "64-bit", id="seed too great"),
    pytest.param({"stop": ["x"] * 17}, "stop", "at most 16", id="too many stop strings"),
    pytest.param({"stop": "x" * 257}, "stop", "1 to 256", id="too long a stop string"),
    pytest.param({"n": 0}, "n", "greater than or equal to 1", id="no answer"),
    pytest.param({"n": 129}, "n", "less than or equal to 128", id="too many answers"),
    pytest.param({"n": "2"}, "n", "valid integer", id="answers in words"),
    pytest.param({"best_of": 3}, "best_of", "not served here", id="best of three"),
    pytest.param({"logprobs": 21}, "logprobs", "from 0 to 20", id="too many logprobs"),
    pytest.param({"logprobs": True}, "logprobs", "valid integer", id="logprobs as chats have them"),
    pytest.param({"top_logprobs": 2}, "top_logprobs", "not a known field", id="a chat's field"),
    pytest.param({"suffix": "end"}, "suffix", "not served here", id="suffix"),
    pytest.param({"logit_bias": {"5": 100.5}}, "logit_bias", "of token 5 is 100.5; must be from -100", id="bias"),
    pytest.param({"logit_bias": {"God": 1}}, "logit_bias", "'God'", id="bias of a word"),
    pytest.param({"logit_bias": {"5": "1"}}, "logit_bias.5", "valid number", id="bias in words"),
    pytest.param({"logit_bias": [[5, 1]]}, "logit_bias", "valid dictionary", id="biases in a list"),
    pytest.param({"logit_bias": {"-1": 1}}, "logit_bias", "token id -1 is outside 0..", id="bias of no token"),
    pytest.param({"logit_bias": {"9999": 1}}, "logit_bias", "token id 9999 is outside 0..", id="bias beyond the end"),
    pytest.param({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "at most 1024", id="too many biases"),
    pytest.param({"stop_token_ids": [9999]}, "stop_token_ids", "token id 9999 is outside", id="unknown stop token"),
    pytest.param({"stop_token_ids": list(range(200))}, "stop_token_ids", "at most 127", id="too many stop tokens"),
    pytest.param({"presence_penalty": 2.1}, "presence_penalty", "from -2 to 2", id="presence penalty"),
    pytest.param({"frequency_penalty": -2.1}, "frequency_penalty", "from -2 to 2", id="frequency penalty"),
    pytest.param({"repetition_penalty": 0}, "repetition_penalty", "from 0.01 to 100", id="repetition penalty"),
    pytest.param({"min_p": 1.1}, "min_p", "from 0 to 1", id="min_p above one"),
    pytest.param({"min_p": -0.1}, "min_p", "from 0 to 1", id="min_p below zero"),
    pytest.param({"min_tokens": -1}, "min_tokens", "0 or more", id="negative min_tokens"),
    pytest.param({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "limit of 8", id="min_tokens above max_tokens"),
    pytest.param({"min_tokens": 17}, "min_tokens", "limit of 16", id="min_tokens above the default of max_tokens"),
    pytest.param({"max_token": 5}, "max_token", "not a known field", id="misspelt field"),
    pytest.param({"stream_options": {"usage": True}}, "stream_options.usage", "not a known field", id="nested field"),
]
REFUSED_CHATS = [
    pytest.param({"messages": []}, "messages", "at least 1", id="no message"),
    pytest.param({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "user", id="unknown role"),
    pytest.param({"messages": [{"role": "developer", "content": "x"}]}, "messages", "no developer role", id="template"),
    pytest.param(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.0.type",
        "is 'image_url'; only parts of type `text`",
        id="image",
    ),
    pytest.param({"messages": [{"role": "user"}]}, "messages.0", "needs `content`", id="a message that says nothing"),
    pytest.param(
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages.0.content.0.text",
        "required",
        id="no text",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
        "messages.0",
        "only the assistant",
        id="a user who calls",
    ),
    pytest.param(
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "[1]"}}]}]},
        "messages.0.tool_calls.0.function.arguments",
        "must be a JSON object",
        id="arguments that are no object",
    ),
    pytest.param({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", "tool", id="the old role"),
    pytest.param({"messages": [{"role": "user", "content": "a" * 500}]}, "messages", "shorten it", id="too long"),
    pytest.param({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1", id="no new token"),
    pytest.param({"max_tokens": 0}, "max_tokens", "at least 1", id="no new token, by the old name"),
    pytest.param(
        {"tools": [TOOL]}, "tools", "not served with this model", id="tools that the template has no form for"
    ),
    pytest.param({"tools": [{"type": "function"}]}, "tools.0.function", "required", id="a tool without a function"),
    pytest.param({"tools": [TOOL] * 129}, "tools", "at most 128", id="too many tools"),
    pytest.param({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'", id="a tool of OpenAI's own"),
    pytest.param(
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools.0.function.name",
        "pattern",
        id="tool's name",
    ),
    pytest.param({"tool_choice": "required"}, "tool_choice", "there are no `tools`", id="a choice of nothing"),
    pytest.param({"tools": [TOOL], "tool_choice": "any"}, "tool_choice.type", "'required'", id="an unknown choice"),
    pytest.param(
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
        "is none of `tools`",
        id="a choice of another tool",
    ),
    pytest.param(
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        "tools",
        "are not served with this model",
        id="tools and a format",
    ),
    pytest.param({"functions": [TOOL["function"]]}, "functions", "not served here", id="tools by their old name"),
    pytest.param({"reasoning_effort": "high"}, "reasoning_effort", "not served here", id="effort"),
    pytest.param({"response_format": {"type": "json_object"}}, "response_format", "not served here", id="JSON mode"),
    pytest.param({"logprobs": 5}, "logprobs", "valid boolean", id="logprobs as completions have them"),
    pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20", id="too many logprobs"),
    pytest.param({"top_logprobs": 2}, "top_logprobs", "needs `logprobs`", id="the likeliest without the chosen"),
    pytest.param({"echo": True}, "echo", "not a known field", id="a completion's field"),
]


@pytest.mark.parametrize(
    ("request_", "field", "limit"),
    [
        *(pytest.param(COMPLETION | case.values[0], *case.values[1:], id=case.id) for case in REFUSED_COMPLETIONS),
        *(pytest.param(CHAT | case.values[0], *case.values[1:], id=f"chat, {case.id}") for case in REFUSED_CHATS),
    ],
)
async def test_what_is_not_served_is_refused_with_field_and_limit(
    model: Path, runner: ScriptedRunner, request_: dict[str, Any], field: str, limit: str
) -> None:
    async with open_server(model, runner) as server:
        path = "/v1/chat/completions" if "messages" in request_ else "/v1/completions"
        status, answer = await post(server, path, request_)
        refused = server.sample("headrace_requests_refused_total", reason="invalid")
    assert (status, refused) == (400, 1)
    error = answer["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert error["message"].startswith(f"{field}: ")
    assert limit in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
async def test_a_body_that_is_no_json_object_is_refused(model: Path, runner: ScriptedRunner, body: bytes) -> None:
    async with open_server(model, runner) as server:
        status, answer = await post(server, "/v1/completions", body)
    assert (status, answer["error"]["param"]) == (400, "body")


async def test_a_body_beyond_the_size_limit_is_refused(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        status, answer = await post(server, "/v1/completions", COMPLETION | {"prompt": "a" * (4 * 2**20)})
    assert status == 413
    assert "4194304" in answer["error"]["message"]


async def test_fields_that_change_nothing_are_taken(model: Path, runner: ScriptedRunner) -> None:
    harmless = {
        "n": 1, "echo": False, "logprobs": None, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0,
        "user": "u", "metadata": {"a": "b"}, "store": True, "best_of": 1, "stream": None, "seed": None,
    }  # fmt: skip
    async with open_server(model, runner) as server:
        status, answer = await post(server, "/v1/completions", COMPLETION | harmless)
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")


async def test_a_model_without_a_chat_template_says_where_to_send_the_text(
    tmp_path: Path, runner: ScriptedRunner
) -> None:
    save_tiny_tokenizer(tmp_path, chat=False)
    async with open_server(tmp_path, runner) as server:
        status, answer = await post(server, "/v1/chat/completions", CHAT)
    assert (status, answer["error"]["param"]) == (400, "messages")
    assert "/v1/completions" in answer["error"]["message"]


async def test_an_unknown_path_and_a_wrong_method_answer_in_the_same_form(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server:
        assert (await get(server, "/v1/nothing"))[0] == 404
        status, answer = await get(server, "/v1/completions")
    assert status == 405
    assert answer["error"]["message"].startswith("GET /v1/completions: ")
    assert answer["error"]["code"] == "method_not_supported"


CODES = [
    pytest.param({}, None, ("prompt", "missing_required_parameter"), id="a field is missing"),
    pytest.param({"prompt": "In", "x": 1}, None, ("x", "unknown_parameter"), id="a field is unknown"),
    pytest.param(
        {"prompt": "In", "suffix": "x"}, None, ("suffix", "unsupported_parameter"), id="a field is not served"
    ),
    pytest.param({"prompt": "In", "seed": "1"}, None, ("seed", "invalid_type"), id="a value of another type"),
    pytest.param({"prompt": "In", "n": 0}, None, ("n", "invalid_value"), id="a value out of range"),
    pytest.param({"prompt": [5] * CONTEXT}, None, ("prompt", "context_length_exceeded"), id="a prompt too long"),
    pytest.param(
        {"prompt": "In", "max_tokens": CONTEXT}, None, ("max_tokens", "context_length_exceeded"), id="too much"
    ),
    pytest.param(b"{", None, ("body", None), id="no JSON"),
    pytest.param(b"[" * 100_000, None, ("body", None), id="nested without end"),
    pytest.param(b'{"model": "tiny", "prompt": "\\ud800"}', None, ("body", None), id="half a character"),
    pytest.param(b"no gzip", "gzip", (None, None), id="not compressed as its header says"),
]


@pytest.mark.parametrize(("body", "encoding", "error"), CODES)
async def test_errors_have_openais_shape_and_codes(
    model: Path, runner: ScriptedRunner, body: Any, encoding: str | None, error: tuple[str | None, str | None]
) -> None:
    data = body if isinstance(body, bytes) else json.dumps({"model": NAME} | body)
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    async with (
        open_server(model, runner) as server,
        a_session(server) as session,
        session.post("/v1/completions", data=data, headers=headers) as response,
    ):
        status, answer = response.status, await response.json()
    assert (status, answer.keys()) == (400, {"error"})
    found = answer["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert (found["type"], (found["param"], found["code"])) == ("invalid_request_error", error)


async def test_a_bug_of_ours_is_an_error_of_openais_shape_and_a_traceback_in_the_log(
    model: Path, runner: ScriptedRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    async with open_server(model, runner) as server:
        monkeypatch.setattr("headrace_server.rpc.completions.CompletionBody.asks", broken)
        status, answer = await post(server, "/v1/completions", COMPLETION)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer["error"]["message"]
    assert "a secret of the server" in caplog.text


async def test_a_stream_is_server_sent_events_that_end_with_done(model: Path, runner: ScriptedRunner) -> None:
    async with (
        open_server(model, runner) as server,
        a_session(server) as session,
        session.post("/v1/completions", json=COMPLETION | {"stream": True}) as response,
    ):
        content_type, raw = response.content_type, await response.text()
    events = raw.split("\n\n")
    assert content_type == "text/event-stream"
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting for the whole"])
async def test_a_client_that_hangs_up_frees_its_pages(model: Path, runner: ScriptedRunner, stream: bool) -> None:
    async with open_server(model, runner) as server:
        runner.gate.clear()
        async with a_session(server) as session:
            body = COMPLETION | {"stream": stream, "max_tokens": 40}
            asking = asyncio.create_task(session.post("/v1/completions", json=body).__aenter__())
            await server.until_inside(1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        assert server.sample("headrace_requests_finished_total", outcome=Finish.CANCELLED) == 1


async def test_health_answers_from_the_start_and_ready_only_when_warm(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, ready=False) as server:
        assert await get(server, "/health") == (200, {"phase": "loading"})
        assert await get(server, "/ready") == (503, {"phase": "loading", "model": NAME})
    async with open_server(model, runner) as server:
        assert await get(server, "/ready") == (200, {"phase": "ready", "model": NAME})
        assert server.sample("headrace_ready") == 1
        await server.doors.turn_away(Phase.DRAINING)
        assert await get(server, "/ready") == (503, {"phase": "draining", "model": NAME})
        assert await get(server, "/health") == (200, {"phase": "draining"})
        assert server.sample("headrace_ready") == 0


async def test_while_draining_every_answer_closes_its_connection(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_session(server) as session:
        for phase, header in ((None, None), (Phase.DRAINING, "close")):
            if phase is not None:
                await server.doors.turn_away(phase)
            for stream in (False, True):
                async with session.post("/v1/completions", json=COMPLETION | {"stream": stream}) as response:
                    assert (response.status, response.headers.get("Connection")) == (200, header)
                    await response.read()


async def test_metrics_are_prometheus_text(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_session(server) as session:
        await post(server, "/v1/completions", COMPLETION)
        async with session.get("/metrics") as response:
            text, content_type = await response.text(), response.headers["Content-Type"]
    assert content_type.startswith("text/plain; version=")
    assert 'headrace_requests_finished_total{outcome="length"} 1.0' in text
    assert "headrace_generation_tokens_total 16.0" in text
