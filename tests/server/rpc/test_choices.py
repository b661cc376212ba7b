"""Several choices of one answer, and several prompts of one request, as OpenAI's own client asks for them."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from canned_engine import CannedServer, canned_server
from engines import until
from headrace_server.request import Finish
from open_server import NAME, PAGES, OpenServer, open_server
from scripted_runner import ScriptedRunner
from tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MESSAGES: Any = [{"role": "user", "content": "In"}]
PROMPTS = ["In the", "God", "void"]


def counted(prompt: tuple[int, ...]) -> Iterator[int]:
    """The prompt again, and again."""
    return itertools.cycle(prompt)


@asynccontextmanager
async def a_client(server: OpenServer | CannedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("as_tokens", [False, True], ids=["texts", "token ids"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_each_prompt_has_its_choices_in_order_and_all_have_one_usage(
    model: Path, as_tokens: bool, stream: bool
) -> None:
    ids = [TOKENIZER.encode(prompt).ids for prompt in PROMPTS]
    ask: Any = {"model": NAME, "prompt": ids if as_tokens else PROMPTS, "n": 2, "max_tokens": 4}
    async with open_server(model, ScriptedRunner(counted)) as server, a_client(server) as client:
        if stream:
            chunks = [
                chunk
                async for chunk in await client.completions.create(
                    **ask, stream=True, stream_options={"include_usage": True}
                )
            ]
            *parts, last = chunks
            texts: dict[int, str] = defaultdict(str)
            for part in parts:
                [choice] = part.choices
                texts[choice.index] += choice.text
            ended = [part.choices[0].index for part in parts if part.choices[0].finish_reason == "length"]
            assert sorted(ended) == list(range(6))
            assert len({chunk.id for chunk in chunks}) == 1
            usage, found = last.usage, [texts[index] for index in range(6)]
        else:
            answer = await client.completions.create(**ask)
            assert [choice.index for choice in answer.choices] == list(range(6))
            usage, found = answer.usage, [choice.text for choice in answer.choices]
    expected = [TOKENIZER.decode(list(itertools.islice(itertools.cycle(each), 4))) for each in ids for _ in range(2)]
    assert found == expected
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (sum(map(len, ids)), 6 * 4)


async def test_a_chat_has_choices_too_each_with_its_own_beginning(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        answer = await client.chat.completions.create(model=NAME, messages=MESSAGES, n=3, max_tokens=5)
        stream = await client.chat.completions.create(model=NAME, messages=MESSAGES, n=3, max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    begun = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].delta.role == "assistant"]
    assert begun == [0, 1, 2]
    for choice in answer.choices:
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(parts) == choice.message.content


async def test_what_the_prompts_have_in_common_is_computed_once(model: Path, runner: ScriptedRunner) -> None:
    prompt = [20 + place for place in range(40)]  # two full pages of 16, and a rest of 8
    async with open_server(model, runner) as server, a_client(server) as client:
        await client.completions.create(model=NAME, prompt=[prompt], n=4, max_tokens=2)
        assert server.sample("headrace_prompt_tokens_total") == 40 + 3 * 8


async def test_a_seed_gives_each_choice_another_one_and_the_same_ones_again(model: Path) -> None:
    for seed, expected in ((5, [5, 6, 7]), (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63) + 2]), (None, [None] * 3)):
        async with canned_server(model, [5]) as server, a_client(server) as client:
            await client.completions.create(model=NAME, prompt="In", n=3, seed=seed, temperature=1, max_tokens=1)
            assert [request.sampling.seed for request in server.engine.asked] == expected


async def test_one_choice_too_many_refuses_them_all_and_leaves_nothing_behind(
    model: Path, runner: ScriptedRunner
) -> None:
    async with open_server(model, runner, max_running=2, max_waiting=2) as server, a_client(server) as client:
        runner.gate.clear()
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError):
                await client.completions.create(model=NAME, prompt="In", n=6, stream=stream)
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting for the whole"])
async def test_a_client_that_hangs_up_frees_every_choice(model: Path, runner: ScriptedRunner, stream: bool) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        runner.gate.clear()
        asking = asyncio.create_task(
            client.completions.create(model=NAME, prompt=["In", "God"], n=2, max_tokens=40, stream=stream)
        )
        await server.until_inside(4)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        runner.gate.set()
        await server.until_inside(0)
        assert server.engine.load().kv_pages_free == PAGES
        assert server.sample("headrace_requests_finished_total", outcome=Finish.CANCELLED) == 4


async def test_a_forward_pass_that_breaks_ends_the_stream_of_all_choices(model: Path, runner: ScriptedRunner) -> None:
    async with open_server(model, runner) as server, a_client(server) as client:
        runner.pause_at = 9
        stream = await client.completions.create(model=NAME, prompt="In", n=3, max_tokens=60, stream=True)
        await until(lambda: not runner.gate.is_set())
        runner.broken = RuntimeError("device lost")
        runner.gate.set()
        with pytest.raises(openai.APIError, match="device lost"):
            [chunk async for chunk in stream]


async def test_usage_so_far_comes_with_every_chunk_when_asked_for(model: Path, runner: ScriptedRunner) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    async with open_server(model, runner) as server, a_client(server) as client:
        stream = await client.completions.create(
            model=NAME, prompt="In the", n=2, max_tokens=9, stream=True, stream_options=options
        )
        usages = [chunk.usage async for chunk in stream]
        chat = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=9, stream=True, stream_options=options
        )
        of_chat = [chunk.usage async for chunk in chat]
        without: Any = {"continuous_usage_stats": True}
        plain = await client.completions.create(model=NAME, prompt="In", stream=True, stream_options=without)
        assert [chunk.usage async for chunk in plain if chunk.usage] == []
    for found, prompt, most in ((usages, len(TOKENIZER.encode("In the").ids), 18), (of_chat[1:], None, 9)):
        counts = [usage.completion_tokens for usage in found if usage is not None]
        assert len(counts) == len(found)
        assert counts == sorted(counts)
        assert counts[-2:] == [most, most]
        assert {usage.prompt_tokens for usage in found if usage is not None} == {prompt or of_chat[-1].prompt_tokens}
