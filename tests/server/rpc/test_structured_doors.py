"""A served model, asked for JSON and for a regex by the clients that people have."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
import openai
import pytest
import pytest_asyncio
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from pydantic import BaseModel, ConfigDict, Field
from served_process import NAME, ServedProcess, serve_command, served

SHIPPED = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"

# One process for the whole file: all its tests have to be of the file's event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Verse(BaseModel):
    model_config = ConfigDict(extra="forbid")
    book: Literal["Genesis", "Exodus", "Ruth"]
    chapter: Annotated[int, Field(ge=1, le=50)]
    words: Annotated[list[Annotated[str, Field(max_length=8)]], Field(max_length=4)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedProcess]:
    async with served(serve_command(SHIPPED), tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: ServedProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_openais_client_parses_the_answer_into_its_own_type(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model=NAME,
        messages=[{"role": "user", "content": "Which verse?"}],
        response_format=Verse,
        max_tokens=200,
        seed=1,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Verse)


async def test_a_stream_adds_up_to_json(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=NAME,
        prompt="And the LORD said, ",
        max_tokens=200,
        stream=True,
        temperature=0,
        extra_body={"response_format": {"type": "json_schema", "json_schema": {"schema": Verse.model_json_schema()}}},
    )
    Verse.model_validate_json("".join([chunk.choices[0].text async for chunk in stream]))


async def test_a_regex_by_vllms_name(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=NAME, prompt="In the beginning ", extra_body={"structured_outputs": {"regex": DATE}}
    )
    assert re.fullmatch(DATE, answer.choices[0].text)


@pytest.mark.parametrize(
    ("format_", "named", "message"),
    [
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "Unimplemented keys",
            id="a keyword that would not be enforced",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema"}}, "response_format", "needs `json_schema`", id="no schema"
        ),
        pytest.param({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed", id="a regex"),
        pytest.param(
            {"response_format": {"type": "json_object"}, "ignore_eos": True},
            "ignore_eos",
            "does not go with",
            id="endless",
        ),
    ],
)
async def test_what_cannot_be_enforced_is_refused_in_the_clients_words(
    client: openai.AsyncOpenAI, format_: dict[str, Any], named: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model=NAME, prompt="In", extra_body=format_)
    assert refused.value.param == named
    assert message in refused.value.message


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_grpc_has_the_same(server: ServedProcess, seed: int) -> None:
    schema = json.dumps(Verse.model_json_schema())
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        asked = pb.GenerateRequest(text="Thus ", max_new_tokens=200, temperature=1, seed=seed, json_schema=schema)
        Verse.model_validate_json("".join([reply.text async for reply in stub.Generate(asked)]))


async def test_grpc_refuses_with_the_field(server: ServedProcess) -> None:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest(text="In", regex="(a"))
        with pytest.raises(grpc.aio.AioRpcError, match="regex: cannot be enforced: regex: unclosed group") as refused:
            await anext(aiter(call))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
