"""Every sampling field of both doors reaches the engine as the caller wrote it."""

from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from canned_engine import EOS, canned_server
from headrace_server.request import Request, Sampling
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from open_server import NAME
from tiny_tokenizer import tiny_tokenizer

ANSWER = tuple(tiny_tokenizer().encode("God created the heaven").ids)
EVERYTHING = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.75,
    "seed": -3,
    "min_p": 0.25,
    "repetition_penalty": 1.5,
    "presence_penalty": -0.5,
    "frequency_penalty": 1.25,
    "min_tokens": 2,
}
SAMPLING = Sampling(**EVERYTHING, logit_bias=((5, -1.5), (9, 100.0)))


async def asked_by_http(model: Path, path: str, body: dict[str, Any]) -> Request:
    async with canned_server(model, ANSWER) as server, aiohttp.ClientSession(server.http) as session:
        async with session.post(path, json=body) as response:
            assert response.status == 200, await response.text()
        [request] = server.engine.asked
        return request


async def asked_by_grpc(model: Path, message: pb.GenerateRequest) -> Request:
    async with canned_server(model, ANSWER) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        [_ async for _ in inference_pb2_grpc.InferenceStub(channel).Generate(message)]
        [request] = server.engine.asked
        return request


PROMPTS = [
    pytest.param("/v1/completions", {"prompt": "In"}, 1.0, id="completion"),
    pytest.param("/v1/chat/completions", {"messages": [{"role": "user", "content": "In"}]}, 1.0, id="chat"),
]


@pytest.mark.parametrize(("path", "prompt", "warm"), PROMPTS)
async def test_openai_bodies_carry_every_setting(model: Path, path: str, prompt: dict[str, Any], warm: float) -> None:
    body = {"model": NAME, **prompt, **EVERYTHING, "logit_bias": {"5": -1.5, "9": 100}, "stop_token_ids": [4, 6]}
    request = await asked_by_http(model, path, body)
    assert request.sampling == SAMPLING
    assert request.stop_token_ids == {4, 6, *EOS}
    plain = await asked_by_http(model, path, {"model": NAME, **prompt})
    assert plain.sampling == Sampling(temperature=warm)


async def test_grpc_carries_every_setting(model: Path) -> None:
    message = pb.GenerateRequest(
        text="In", **EVERYTHING, logit_bias={9: 100, 5: -1.5}, stop_token_ids=[4, 6], logprobs=0, prompt_logprobs=2
    )
    request = await asked_by_grpc(model, message)
    assert request.sampling == Sampling(**EVERYTHING, logit_bias=((5, -1.5), (9, 100.0)), logprobs=0)
    assert (request.stop_token_ids, request.prompt_logprobs) == ({4, 6, *EOS}, 2)
    plain = await asked_by_grpc(model, pb.GenerateRequest(text="In"))
    assert (plain.sampling, plain.stop_token_ids, plain.prompt_logprobs) == (Sampling(), {*EOS}, None)


async def test_without_the_end_of_sequence_tokens_the_callers_own_still_stop(model: Path) -> None:
    request = await asked_by_grpc(model, pb.GenerateRequest(text="In", ignore_eos=True, stop_token_ids=[4]))
    assert request.stop_token_ids == {4}


async def test_stop_strings_reach_the_engine_with_something_that_sees_them(model: Path) -> None:
    request = await asked_by_grpc(model, pb.GenerateRequest(text="In", stop=["ed"]))
    assert request.stop == ("ed",)
    assert (await asked_by_grpc(model, pb.GenerateRequest(text="In"))).stops is None


@pytest.mark.parametrize(("min_tokens", "shown"), [(0, ""), (1, "God created th")])
async def test_a_stop_string_among_tokens_that_have_to_come_is_text(model: Path, min_tokens: int, shown: str) -> None:
    """Both who watch for it leave out the same tokens."""
    message = pb.GenerateRequest(text="In", stop=["G", "e "], min_tokens=min_tokens)
    async with canned_server(model, ANSWER) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        replies = [reply async for reply in inference_pb2_grpc.InferenceStub(channel).Generate(message)]
    assert "".join(reply.text for reply in replies) == shown
    assert replies[-1].finish_reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("structured", "field"),
    [
        pytest.param({"json_schema": "{}"}, "json_schema", id="schema"),
        pytest.param({"regex": "a+"}, "regex", id="regex"),
        pytest.param({"json_object": True}, "json_object", id="any object"),
    ],
)
async def test_structured_output_is_refused_where_nothing_enforces_it(
    model: Path, structured: dict[str, Any], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked_by_grpc(model, pb.GenerateRequest(text="In", **structured))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ("headrace-field", field) in tuple(refused.value.trailing_metadata() or ())
