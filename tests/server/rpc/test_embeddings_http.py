"""/v1/embeddings, as OpenAI's own client and plain HTTP see it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from embed_server import FACTS, EmbedServer, embed_server, vector_of
from headrace_server.errors import DeadlineExceeded, EngineFailed, Overloaded
from headrace_server.request import Priority
from open_server import NAME, open_server
from scripted_runner import ScriptedRunner


@asynccontextmanager
async def a_client(server: EmbedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


async def post(base: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps({"model": NAME} | body)
    async with aiohttp.ClientSession(base) as session, session.post("/v1/embeddings", data=data) as response:
        return response.status, await response.json()


INPUTS = [
    pytest.param("naïve 你好", ["naïve 你好"], id="a text"),
    pytest.param(["a", "bc", "a"], ["a", "bc", "a"], id="several texts"),
    pytest.param([5, 6, 7], [(5, 6, 7)], id="token ids"),
    pytest.param([[5, 6], [7]], [(5, 6), (7,)], id="several lists of token ids"),
]


@pytest.mark.parametrize(("given", "inputs"), INPUTS)
async def test_every_form_of_input_gives_a_vector_each_in_order(model: Path, given: Any, inputs: list[Any]) -> None:
    async with embed_server(model) as server, a_client(server) as client:
        answer = await client.embeddings.create(model=NAME, input=given, user="u")  # base64, as the client prefers
        as_numbers = await client.embeddings.create(model=NAME, input=given, encoding_format="float")
    assert (answer.object, answer.model) == ("list", NAME)
    assert [one.index for one in answer.data] == list(range(len(inputs)))
    assert {one.object for one in answer.data} == {"embedding"}
    for found in (answer, as_numbers):
        vectors = np.array([one.embedding for one in found.data], np.float32)
        np.testing.assert_array_equal(vectors, [vector_of(one) for one in inputs])
    tokens = sum(map(len, inputs))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


async def test_base64_is_little_endian_float32_and_the_default_is_numbers(model: Path) -> None:
    async with embed_server(model) as server:
        _, plain = await post(server.http, {"input": "a"})
        _, packed = await post(server.http, {"input": "a", "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"], validate=True)
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), vector_of("a"))
    np.testing.assert_array_equal(np.array(plain["data"][0]["embedding"], np.float32), vector_of("a"))


async def test_shorter_vectors_are_the_first_numbers_in_both_encodings(model: Path) -> None:
    async with embed_server(model) as server, a_client(server) as client:
        for encoding in ("float", "base64"):
            answer: Any = await client.embeddings.create(
                model=NAME, input=["a", "b"], dimensions=3, encoding_format=encoding
            )
            rows = [
                np.frombuffer(base64.b64decode(one.embedding), "<f4") if encoding == "base64" else one.embedding
                for one in answer.data
            ]
            np.testing.assert_array_equal(np.array(rows, np.float32), [vector_of("a")[:3], vector_of("b")[:3]])


async def test_what_vllm_adds_and_how_urgent_it_is_reach_the_embedder(model: Path) -> None:
    extras = {"normalize": False, "truncate_prompt_tokens": -1, "service_tier": "flex", "timeout": 2.5}
    async with embed_server(model) as server:
        assert (await post(server.http, extras | {"input": "a" * (FACTS.max_tokens + 1)}))[0] == 200
        assert (await post(server.http, {"input": "a"}))[0] == 200
        given, plain = server.embedder.asked
    assert (given.normalise, given.truncate, given.priority, given.timeout) == (False, True, Priority.BATCH, 2.5)
    assert (plain.normalise, plain.truncate, plain.priority, plain.timeout) == (None, False, Priority.STANDARD, None)


REFUSED = [
    pytest.param({}, "input", "Field required", id="no input"),
    pytest.param({"input": []}, "input", "1 to 2048", id="no text"),
    pytest.param({"input": ["a"] * 2049}, "input", "holds 2049 inputs", id="too many texts"),
    pytest.param({"input": ""}, "input", "number 0 is empty", id="empty text"),
    pytest.param({"input": ["a", ""]}, "input", "number 1 is empty", id="an empty text among others"),
    pytest.param({"input": [[5], []]}, "input", "number 1 is empty", id="no tokens among others"),
    pytest.param({"input": ["a", 5]}, "input", "must be a string, a list", id="a mixture"),
    pytest.param({"input": [True]}, "input", "must be a string, a list", id="no token id"),
    pytest.param({"input": {"text": "a"}}, "input", "must be a string, a list", id="an object"),
    pytest.param({"input": "a" * (FACTS.max_tokens + 1)}, "input", f"{FACTS.max_tokens} tokens", id="too long"),
    pytest.param({"dimensions": 0}, "dimensions", "greater than or equal to 1", id="no dimension"),
    pytest.param({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'", id="encoding"),
    pytest.param({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "-1", id="a cut of one's own"),
    pytest.param({"dimension": 3}, "dimension", "not a known field", id="misspelt"),
    pytest.param({"timeout": 0}, "timeout", "greater than 0", id="no time"),
]


@pytest.mark.parametrize(("body", "field", "limit"), REFUSED)
async def test_what_cannot_be_embedded_is_refused_with_its_field(
    model: Path, body: dict[str, Any], field: str, limit: str
) -> None:
    given = body if "input" in body or field == "input" else {"input": "a"} | body
    async with embed_server(model) as server:
        status, answer = await post(server.http, given)
    assert (status, answer["error"]["param"]) == (400, field)
    assert limit in answer["error"]["message"]


FAILURES = [
    pytest.param(Overloaded("full", 3.2), 429, "overloaded_error", id="full"),
    pytest.param(DeadlineExceeded("late", started=False), 504, "timeout_error", id="late"),
    pytest.param(EngineFailed("device lost"), 500, "server_error", id="broken"),
]


@pytest.mark.parametrize(("failure", "status", "kind"), FAILURES)
async def test_what_goes_wrong_is_an_error_of_openais_shape(
    model: Path, failure: Exception, status: int, kind: str
) -> None:
    async with embed_server(model) as server:
        server.embedder.failure = failure
        found, answer = await post(server.http, {"input": "a"})
    assert (found, answer["error"]["type"]) == (status, kind)


async def test_each_task_says_where_the_other_is_served(model: Path, runner: ScriptedRunner) -> None:
    async with embed_server(model) as server, a_client(server) as client:
        with pytest.raises(openai.BadRequestError, match="embeds and does not generate"):
            await client.completions.create(model=NAME, prompt="In")
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="other", input="In")
    async with open_server(model, runner) as generator:
        status, answer = await post(generator.http, {"input": "a"})
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "generates and does not embed" in answer["error"]["message"]


async def test_before_the_model_is_warm_the_answer_is_unavailable(model: Path) -> None:
    async with embed_server(model, ready=False) as server:
        status, answer = await post(server.http, {"input": "a"})
    assert (status, answer["error"]["type"]) == (503, "unavailable_error")


async def test_a_client_that_hangs_up_cancels_what_it_asked(model: Path) -> None:
    async with embed_server(model) as server:
        server.embedder.gate.clear()
        asking = asyncio.create_task(post(server.http, {"input": "a"}))
        async with asyncio.timeout(120):
            while not server.embedder.asked:
                await asyncio.sleep(0.005)
            asking.cancel()
            while not server.embedder.cancelled:
                await asyncio.sleep(0.005)
        assert server.doors.arrivals.inside == 0
