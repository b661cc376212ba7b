"""The engine with a real model behind it: however it runs, the same tokens; and the numbers that go with them."""

import asyncio
from typing import Any

import pytest
import torch
from checkpoints import Checkpoint, write_checkpoint
from engines import answer_of
from headrace_server.config import (
    KvCacheDtype,
    QuantizationConfig,
    SpeculativeConfig,
    SpeculativeMethod,
    WeightFormat,
)
from headrace_server.request import Request, Sampling, Token
from model_engines import PROMPT, WHOLE, an_engine, answers, some_requests


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), intermediate_size=128)


NGRAM = SpeculativeConfig(SpeculativeMethod.NGRAM, max_batch=20)
INVARIANT = {"batch_invariant": True}
IN_INT8 = {"kv_cache_dtype": KvCacheDtype.INT8}
# However weights and pages are kept and tokens are guessed, the engine's promises are the same. Who is in a step
# follows from the clock, and moves logits by 1e-6. Where values are then rounded to few bits, a value at an edge
# moves by up to 1/127, and once in some hundred runs an answer goes another way from there. So one answer may, and
# none where nothing depends on who is in a step.
MODES = pytest.mark.parametrize(
    ("weights", "mode", "may_differ"),
    [
        pytest.param(WHOLE, {}, 0, id="whole"),
        pytest.param(QuantizationConfig(WeightFormat.INT8), {}, 1, id="int8 weights"),
        pytest.param(QuantizationConfig(WeightFormat.INT8), INVARIANT, 0, id="int8 weights, invariant"),
        pytest.param(QuantizationConfig(WeightFormat.INT4, group_size=32), {}, 1, id="int4 weights"),
        pytest.param(QuantizationConfig(WeightFormat.INT4, group_size=32), INVARIANT, 0, id="int4 weights, invariant"),
        pytest.param(WHOLE, IN_INT8, 1, id="int8 pages"),
        pytest.param(WHOLE, IN_INT8 | INVARIANT, 0, id="int8 pages, invariant"),
        pytest.param(WHOLE, {"speculative": NGRAM}, 0, id="n-gram"),
    ],
)
Answers = list[list[int | None]]


def differing(some: Answers, others: Answers) -> int:
    return sum(one != other for one, other in zip(some, others, strict=True))


@MODES
async def test_overlap_changes_no_token_greedy_or_seeded(
    checkpoint: Checkpoint, weights: QuantizationConfig, mode: dict[str, Any], may_differ: int
) -> None:
    directory, requests = checkpoint.directory, some_requests()
    plain = await answers(directory, requests, weights, overlap=False, **mode)
    assert differing(await answers(directory, requests, weights, overlap=True, **mode), plain) <= may_differ
    assert differing(await answers(directory, requests, weights, **(mode | {"speculative": None})), plain) <= may_differ
    assert len({len(answer) for answer in plain}) > 1, "some of them stop early, so that a token is thrown away"


@MODES
async def test_neither_preemption_nor_the_prefix_cache_changes_a_token(
    checkpoint: Checkpoint, weights: QuantizationConfig, mode: dict[str, Any], may_differ: int
) -> None:
    directory, requests = checkpoint.directory, some_requests()
    roomy = await answers(directory, requests, weights, prefix_cache=False, **mode)
    head = 16 + 2 if "kv_cache_dtype" in mode else 16 * 4  # bytes: INT8 and its scale; float32
    page = 2 * 3 * 2 * head * 8  # bytes: keys and values, layers, KV heads, a head, tokens
    async with an_engine(directory, weights, kv_cache_bytes=34 * page, **mode) as (engine, registry):
        crowded = await asyncio.gather(*(answer_of(engine, request) for request in requests))
        preempted = registry.get_sample_value("headrace_preemptions_total")
        found = registry.get_sample_value("headrace_prefix_cache_hits_total")
    assert differing([[token.id for token in tokens] for tokens in crowded], roomy) <= may_differ
    assert preempted
    assert found


async def test_a_prompt_seen_before_is_not_computed_again(checkpoint: Checkpoint) -> None:
    async with an_engine(checkpoint.directory) as (engine, registry):
        first = await answer_of(engine, Request("1", PROMPT, 6, 0.0, tenant="a"))
        again = await answer_of(engine, Request("2", PROMPT, 6, 0.0, tenant="a"))
        computed = registry.get_sample_value("headrace_prompt_tokens_total")
        stranger = await answer_of(engine, Request("3", PROMPT, 6, 0.0, tenant="b"))
        computed_for_a_stranger = registry.get_sample_value("headrace_prompt_tokens_total")
    assert [token.id for token in first] == [token.id for token in again] == [token.id for token in stranger]
    assert computed == 100 + 4  # 12 full pages of 8 were found
    assert computed_for_a_stranger == computed + 100


def expected_logprobs(checkpoint: Checkpoint, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = checkpoint.reference(torch.tensor([tokens])).logits[0]
    return logits.log_softmax(dim=-1)


async def test_logprobs_are_those_of_transformers(checkpoint: Checkpoint) -> None:
    request = Request("it", PROMPT[:40], 6, 0.0, Sampling(logprobs=3))
    async with an_engine(checkpoint.directory) as (engine, _):
        neighbour, tokens = await asyncio.gather(
            answer_of(engine, Request("beside", PROMPT[5:17], 9, 0.0)), answer_of(engine, request)
        )
    assert all(token.logprobs is None for token in neighbour if token.id is None)
    ids = [token.id for token in tokens if token.id is not None]
    expected = expected_logprobs(checkpoint, (*request.prompt, *ids))
    for place, token in enumerate(tokens):
        row = expected[len(request.prompt) - 1 + place]
        assert token.logprobs is not None
        assert token.logprobs.chosen.id == token.id
        assert token.logprobs.chosen.logprob == pytest.approx(row[ids[place]].item(), abs=1e-4)
        best = row.topk(3)
        assert [one.id for one in token.logprobs.top[:3]] == best.indices.tolist()
        assert [one.logprob for one in token.logprobs.top[:3]] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("new_tokens", [0, 1, 5])
async def test_logprobs_of_a_prompt_in_chunks(checkpoint: Checkpoint, new_tokens: int) -> None:
    request = Request("it", PROMPT, new_tokens, 0.0, prompt_logprobs=2)
    async with an_engine(checkpoint.directory) as (engine, _):
        await answer_of(engine, Request("before", PROMPT, 2, 0.0))  # what the prefix cache knows gives no logprobs
        tokens = await answer_of(engine, request)
    expected = expected_logprobs(checkpoint, PROMPT)
    assert len(tokens) == max(1, new_tokens)
    assert (tokens[0].id is None) == (new_tokens == 0)
    found = tokens[0].prompt_logprobs
    assert [one.chosen.id for one in found] == [*PROMPT[1:]]
    rows = expected[torch.arange(99), torch.tensor(PROMPT[1:])]
    assert [one.chosen.logprob for one in found] == pytest.approx(rows.tolist(), abs=1e-4)
    assert [one.top[0].id for one in found] == expected[:-1].argmax(dim=-1).tolist()


async def test_a_lone_token_has_no_prompt_logprobs(checkpoint: Checkpoint) -> None:
    async with an_engine(checkpoint.directory) as (engine, _):
        [token] = await answer_of(engine, Request("it", (5,), 0, 0.0, prompt_logprobs=1))
    assert token == Token(None, token.finish, token.queue_wait)
