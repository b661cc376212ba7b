"""The HTTP door, as OpenAI's own client sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from engines import until
from headrace_server.rpc.readiness import Phase
from open_server import NAME, OpenServer, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "
ANSWER_TOKENS = len(tiny_tokenizer().encode(ANSWER).ids)
PROMPT_TOKENS = len(tiny_tokenizer().encode("In the").ids)
MESSAGES = [{"role": "user", "content": "In"}]


@asynccontextmanager
async def a_client(server: OpenServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_completion_is_whole_and_counted(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt="In the", max_tokens=ANSWER_TOKENS, user="u")
    assert (answer.object, answer.model) == ("text_completion", NAME)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (ANSWER, "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == PROMPT_TOKENS
    assert answer.usage.completion_tokens == ANSWER_TOKENS
    assert answer.usage.total_tokens == PROMPT_TOKENS + ANSWER_TOKENS


async def test_every_answer_has_an_id_the_callers_own_where_it_gave_one(
    model: Path, runner: ScriptedRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    async with open_server(model, runner) as server, a_client(server) as client:
        first, second = [await client.completions.create(model=NAME, prompt="In") for _ in range(2)]
        assert first._request_id
        assert first._request_id != second._request_id
        ids = {}
        for given in ("trace-7", "x" * 129, "a b", ""):
            own = await client.completions.create(model=NAME, prompt="In", extra_headers={"X-Request-Id": given})
            ids[given] = own._request_id
        assert [given for given, found in ids.items() if found == given] == ["trace-7"]
        async with client.completions.with_streaming_response.create(
            model=NAME, prompt="In", stream=True, extra_headers={"X-Request-Id": "of-a-stream"}
        ) as stream:
            assert stream.headers["X-Request-Id"] == "of-a-stream"
        with pytest.raises(openai.NotFoundError) as refused:
            await client.completions.create(model="other", prompt="In", extra_headers={"X-Request-Id": "trace-8"})
        assert refused.value.request_id == "trace-8"
        monkeypatch.setattr("headrace_server.rpc.completions.CompletionBody.asks", broken)
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(model=NAME, prompt="In", extra_headers={"X-Request-Id": "trace-9"})
    assert "POST /v1/completions (trace-9)" in caplog.text


async def test_a_completion_without_a_length_has_sixteen_tokens(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt=[5, 6, 7])
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 16)


async def test_a_completion_streams_and_ends_with_the_usage_that_was_asked_for(
    model: Path, runner: ScriptedRunner
) -> None:
    runner.pause_at = 9
    async with open_server(model, runner) as server, a_client(server) as client:
        stream = await client.completions.create(
            model=NAME,
            prompt="In the",
            max_tokens=ANSWER_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        first = await anext(stream)  # long before the last: a door that lags sends several tokens in one
        await until(lambda: not runner.gate.is_set())
        runner.gate.set()
        chunks = [first, *[chunk async for chunk in stream]]
    *texts, last = chunks
    assert "".join(chunk.choices[0].text for chunk in texts) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in texts][-2:] == [None, "length"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == ANSWER_TOKENS
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_chat_answers_as_the_assistant_and_may_fill_the_context(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        answer = await client.chat.completions.create(model=NAME, messages=MESSAGES)
    rendered = tiny_tokenizer().encode("<s>[user] In\n[assistant] ").ids
    assert rendered[0] == 0  # the template's BOS became one token
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert (choice.message.content or "").startswith(ANSWER)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(rendered)
    assert answer.usage.total_tokens == 64


async def test_a_chat_streams_the_role_first_and_then_the_text(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        stream = await client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": [{"type": "text", "text": "In"}]}],
            max_completion_tokens=ANSWER_TOKENS,
            stop=["好"],
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "God created naïve 你"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_models_list_holds_the_one_that_is_served(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        assert [card.id async for card in client.models.list()] == [NAME]
        assert (await client.models.retrieve(NAME)).owned_by == "headrace"
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve("other")
    assert "'other' is not served here; this server serves 'tiny'" in str(unknown.value)


async def test_another_models_name_is_not_found(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.completions.create(model="other", prompt="In")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")


async def test_a_full_queue_is_a_rate_limit_with_a_time_to_come_back(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, max_running=1, max_waiting=1) as server, a_client(server) as client:
        runner.gate.clear()
        inside = [await _ask_and_hang_on(server, client, inside) for inside in (1, 2)]
        with pytest.raises(openai.RateLimitError) as full:
            await client.completions.create(model=NAME, prompt="In")
        runner.gate.set()
        await asyncio.gather(*inside)
    assert int(full.value.response.headers["Retry-After"]) >= 1
    assert full.value.type == "overloaded_error"


async def test_while_loading_the_answer_is_unavailable(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner, ready=False) as server, a_client(server) as client:
        with pytest.raises(openai.InternalServerError) as loading:
            await client.completions.create(model=NAME, prompt="In")
    assert loading.value.status_code == 503
    assert "loading" in str(loading.value)


async def test_once_the_engine_refuses_the_answer_is_unavailable(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        await server.doors.turn_away(Phase.DRAINING)
        served_still = await client.completions.create(model=NAME, prompt="In")
        server.engine.begin_drain()
        with pytest.raises(openai.InternalServerError) as draining:
            await client.completions.create(model=NAME, prompt="In")
    assert served_still.choices[0].finish_reason == "length"
    assert draining.value.status_code == 503
    assert draining.value.response.headers["Connection"] == "close"


async def test_a_forward_pass_that_breaks_is_an_error_in_the_stream(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        runner.pause_at = 9
        stream = await client.completions.create(model=NAME, prompt="In", max_tokens=60, stream=True)
        await until(lambda: not runner.gate.is_set())
        runner.broken = RuntimeError("device lost")
        runner.gate.set()
        with pytest.raises(openai.APIError, match="device lost"):
            [chunk async for chunk in stream]


async def test_a_forward_pass_that_breaks_before_the_first_token_is_a_status(
    model: Path, runner: ScriptedRunner
) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        runner.broken = RuntimeError("device lost")
        with pytest.raises(openai.InternalServerError, match="device lost") as broken:
            await client.completions.create(model=NAME, prompt="In", stream=True)
    assert broken.value.status_code == 500


async def _ask_and_hang_on(server: OpenServer, client: openai.AsyncOpenAI, inside: int) -> "asyncio.Task[object]":
    """Leaves one more request in the engine, and the first of them running."""
    asking = asyncio.create_task(client.completions.create(model=NAME, prompt="In", stream=True))
    await server.until_inside(inside)
    await server.until_running(1)
    return asking
