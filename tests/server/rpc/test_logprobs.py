"""Logprobs in the shapes that OpenAI's clients and evaluation harnesses read."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import openai
import pytest
from canned_engine import CannedServer, canned_server, logprob
from headrace_server.request import Finish, Logprob, Logprobs
from headrace_server.rpc.answers import Piece
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc
from headrace_server.rpc.scores import Scorer
from headrace_server.rpc.shapes import Head, chat_shape, completion_shape
from open_server import NAME
from tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ANSWER = "God created 你 the earth."
IDS = TOKENIZER.encode(ANSWER).ids
PROMPT = "In the beginning"
PROMPT_IDS = TOKENIZER.encode(PROMPT).ids
MESSAGES: Any = [{"role": "user", "content": "In"}]
LIKELIEST = [256, 257, 258]  # the canned engine's, everywhere


def names(ids: Sequence[int]) -> list[bytes]:
    """Each token's bytes, by GPT-2's alphabet as the tokenizer's own library has it, a byte at a time."""
    return [b"".join(BYTES[character] for character in str(TOKENIZER.id_to_token(one))) for one in ids]


def shown(name: bytes, prefix: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return prefix + "".join(rf"\x{byte:02x}" for byte in name)


def offsets(ids: Sequence[int]) -> list[int]:
    """Characters that are complete before each token."""
    before = accumulate(names(ids), initial=b"")
    return [len(text.decode(errors="ignore")) for text in before][: len(ids)]


def every_byte() -> dict[str, bytes]:
    """What the library writes for each character of its alphabet, asked through texts that hold every byte."""
    texts = [
        chr(point) for point in (*range(0x800), *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x10000))
    ]
    found = {}
    for text in texts:
        if 0xD800 <= ord(text) < 0xE000:
            continue
        [(written, _)] = TOKENIZER.pre_tokenizer.pre_tokenize_str(text) or [("", None)]
        found |= {character: bytes([byte]) for character, byte in zip(written, text.encode(), strict=True)}
    return found


BYTES = every_byte()


@asynccontextmanager
async def a_client(server: CannedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_completion_lists_tokens_logprobs_likeliest_and_offsets(model: Path) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt=PROMPT, max_tokens=50, logprobs=2)
    [choice] = answer.choices
    assert choice.text == ANSWER
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [shown(name, "bytes:") for name in names(IDS)]
    assert r"bytes:\xe4" in choice.logprobs.tokens  # a token that is a part of a character
    assert choice.logprobs.token_logprobs == [logprob(one) for one in IDS]
    assert choice.logprobs.text_offset == offsets(IDS)
    likeliest = {shown(name, "bytes:"): logprob(one) for one, name in zip(LIKELIEST, names(LIKELIEST), strict=True)}
    del likeliest[shown(names(LIKELIEST)[2], "bytes:")]  # two were asked for
    assert choice.logprobs.top_logprobs == [
        likeliest | {token: logprob(one)} for one, token in zip(IDS, choice.logprobs.tokens, strict=True)
    ]


async def test_logprobs_of_the_chosen_tokens_alone(model: Path) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt=PROMPT, max_tokens=3, logprobs=0)
        without = await client.completions.create(model=NAME, prompt=PROMPT, max_tokens=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs == [logprob(one) for one in IDS[:3]]
    assert logprobs.top_logprobs is None
    assert without.choices[0].logprobs is None


async def test_an_echo_begins_with_the_prompt_whose_first_token_has_no_logprob(model: Path) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt=PROMPT, max_tokens=1, logprobs=1, echo=True)
    [choice] = answer.choices
    ids = [*PROMPT_IDS, IDS[0]]
    assert choice.text == PROMPT + names(IDS)[0].decode()
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [shown(name, "bytes:") for name in names(ids)]
    assert choice.logprobs.token_logprobs == [None, *(logprob(one) for one in ids[1:])]
    assert choice.logprobs.text_offset == offsets(ids)
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] is None
    assert len(choice.logprobs.top_logprobs[1]) == 2  # the likeliest and the chosen
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT_IDS), 1)


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT_IDS], ids=["text", "tokens"])
@pytest.mark.parametrize("logprobs", [None, 1])
async def test_an_echo_alone_needs_no_answer(model: Path, prompt: str | list[int], logprobs: int | None) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        answer = await client.completions.create(model=NAME, prompt=prompt, max_tokens=0, logprobs=logprobs, echo=True)
        [request] = server.engine.asked
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert (choice.logprobs is None) == (logprobs is None)
    if choice.logprobs is not None:
        assert choice.logprobs.token_logprobs == [None, *(logprob(one) for one in PROMPT_IDS[1:])]
    assert (request.max_new_tokens, request.prompt_logprobs) == (0, logprobs or 0)


async def test_what_an_evaluation_harness_reads_from_an_echo(model: Path) -> None:
    """The likelihood of a continuation: lm-eval's request for it and its arithmetic on the reply."""
    context, continuation = PROMPT_IDS, TOKENIZER.encode(" God").ids
    async with canned_server(model, IDS) as server, aiohttp.ClientSession(server.http) as session:
        body = {"model": NAME, "prompt": [[*context, *continuation]], "temperature": 0, "max_tokens": 1, "logprobs": 1}
        async with session.post("/v1/completions", json=body | {"seed": 1234, "echo": True}) as response:
            reply = await response.json()
    found = reply["choices"][0]["logprobs"]
    of_continuation = found["token_logprobs"][len(context) : -1]
    assert sum(of_continuation) == sum(map(logprob, continuation))
    best = [max(top.values()) for top in found["top_logprobs"][len(context) : -1]]
    assert [one == most for one, most in zip(of_continuation, best, strict=True)] == [
        logprob(one) >= logprob(LIKELIEST[0]) for one in continuation
    ]


async def test_a_chat_lists_each_token_with_its_bytes(model: Path) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        answer = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=50, logprobs=True, top_logprobs=2
        )
        chosen_only = await client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=1, logprobs=True)
        without = await client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(one.token, one.logprob, bytes(one.bytes or [])) for one in logprobs.content] == [
        (shown(name, ""), logprob(one), name) for one, name in zip(IDS, names(IDS), strict=True)
    ]
    expected = [(name, logprob(one)) for one, name in zip(LIKELIEST[:2], names(LIKELIEST[:2]), strict=True)]
    assert all(
        [(bytes(top.bytes or []), top.logprob) for top in one.top_logprobs] == expected for one in logprobs.content
    )
    only = chosen_only.choices[0].logprobs
    assert only is not None
    assert only.content is not None
    assert [one.top_logprobs for one in only.content] == [[]]
    assert without.choices[0].logprobs is None


@pytest.mark.parametrize("stop", [None, "the", "你"], ids=["to the end", "to a stop string", "to one of three tokens"])
async def test_streamed_logprobs_are_those_of_the_whole_and_of_what_is_shown(model: Path, stop: str | None) -> None:
    async with canned_server(model, IDS) as server, a_client(server) as client:
        ask: Any = {"model": NAME, "max_tokens": 50, "stop": stop}
        completion: Any = {"prompt": PROMPT, "logprobs": 1, "echo": True}
        chat: Any = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
        whole = await client.completions.create(**ask, **completion)
        parts = [part async for part in await client.completions.create(**ask, **completion, stream=True)]
        whole_chat = await client.chat.completions.create(**ask, **chat)
        chat_parts = [part async for part in await client.chat.completions.create(**ask, **chat, stream=True)]
    logprobs = [part.choices[0].logprobs for part in parts if part.choices[0].logprobs]
    expected = whole.choices[0].logprobs
    assert expected is not None
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in logprobs for one in getattr(part, field)] == getattr(expected, field)
    content = [one for part in chat_parts if (found := part.choices[0].logprobs) for one in found.content]
    assert whole_chat.choices[0].logprobs is not None
    assert content == whole_chat.choices[0].logprobs.content
    text = "".join(part.choices[0].text for part in parts).removeprefix(PROMPT)
    assert text == (ANSWER.partition(stop)[0] if stop else ANSWER)
    listed = [bytes(one.bytes) for one in content]
    assert b"".join(listed).startswith(text.encode())
    assert len(b"".join(listed[:-1])) < len(text.encode())  # the last one listed is the last that is shown, or begins


async def test_grpc_sends_scores_beside_ids_and_a_long_prompts_in_several_replies(model: Path) -> None:
    prompt = [256 + place % 64 for place in range(600)]
    message = pb.GenerateRequest(tokens=pb.TokenIds(ids=prompt), logprobs=1, prompt_logprobs=3, max_new_tokens=4)
    async with canned_server(model, IDS) as server, grpc.aio.insecure_channel(server.grpc) as channel:
        replies = [reply async for reply in inference_pb2_grpc.InferenceStub(channel).Generate(message)]
    of_prompt = [score for reply in replies for score in reply.prompt_logprobs]
    assert [score.chosen.id for score in of_prompt] == prompt
    assert [score.chosen.HasField("logprob") for score in of_prompt] == [False] + [True] * 599
    assert [score.chosen.logprob for score in of_prompt[1:]] == [logprob(one) for one in prompt[1:]]
    assert {tuple(one.id for one in score.top) for score in of_prompt[1:]} == {tuple(LIKELIEST)}
    assert sum(bool(reply.prompt_logprobs) for reply in replies) > 2
    answer = [(one, score) for reply in replies for one, score in zip(reply.token_ids, reply.logprobs, strict=True)]
    assert [(one, score.chosen.id, score.chosen.text) for one, score in answer] == [
        (one, one, name) for one, name in zip(IDS[:4], names(IDS[:4]), strict=True)
    ]
    assert all([one.id for one in score.top] == LIKELIEST[:1] for _, score in answer)


def test_what_json_cannot_say_is_a_number_that_clients_know() -> None:
    scorer = Scorer(lambda _: b"x", 1)
    nothing = Logprob(5, float("-inf"))
    piece = Piece("x", (5,), Finish.LENGTH, scores=(scorer.score(Logprobs(nothing, (nothing,)), 0),))
    completion = completion_shape(Head("m", 0), 1, 1).chunk(0, piece)
    chat = chat_shape(Head("m", 0), 1).chunk(0, piece)
    assert completion is not None
    assert chat is not None
    assert completion["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]
    assert chat["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0
