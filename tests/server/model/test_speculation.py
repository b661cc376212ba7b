"""Tokens guessed ahead change no answer: whoever guesses, however well, whatever becomes of the requests meanwhile."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Checkpoint, write_checkpoint
from engines import answer_of, until
from headrace_server.config import EngineConfig, SpeculativeConfig, SpeculativeMethod
from headrace_server.engine.sequence import READ_AT_ONCE, Chunk, Grant, Guess, Step
from headrace_server.errors import ModelRefused
from headrace_server.model.loading import load_model
from headrace_server.request import Request, Sampling, Token
from model_engines import PROMPT, an_engine, answers, some_requests
from models import Model, a_config, a_model, asked
from prometheus_client import CollectorRegistry
from steps import a_start

# By degrees of freedom: exceeded once in a thousand times by what has the expected distribution.
CHI_SQUARE = {4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 8: 26.12}
THREE = (3, 4, 5)  # tokens
ALWAYS = 1000  # requests: whatever is measured
NGRAM = SpeculativeConfig(SpeculativeMethod.NGRAM, max_batch=ALWAYS)
GUESSERS = pytest.mark.parametrize("name", ["ngram", "itself", "stranger"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), intermediate_size=128)


@pytest.fixture(scope="module")
def guessers(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SpeculativeConfig]:
    """Of the two draft models one is nearly always right, the other one nearly never."""
    stranger = write_checkpoint(tmp_path_factory.mktemp("stranger"), seed=1, num_hidden_layers=1).directory
    return {"ngram": NGRAM, "itself": a_draft(checkpoint.directory), "stranger": a_draft(stranger)}


def a_draft(directory: Path, tokens: int = 4, max_batch: int = ALWAYS) -> SpeculativeConfig:
    return SpeculativeConfig(SpeculativeMethod.DRAFT, tokens, max_batch, directory)


def counted(registry: CollectorRegistry, name: str) -> float:
    value = registry.get_sample_value(f"headrace_{name}")
    assert value is not None
    return value


def acceptance(registry: CollectorRegistry) -> float:
    return counted(registry, "speculative_accepted_tokens_total") / counted(registry, "speculative_tokens_total")


@GUESSERS
async def test_answers_are_those_without(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    directory, requests = checkpoint.directory, some_requests()
    plain = await answers(directory, requests)
    assert await answers(directory, requests, speculative=guessers[name]) == plain
    assert await answers(directory, requests, speculative=guessers[name], overlap=False) == plain


async def test_a_model_that_guesses_for_itself_is_right_and_one_of_other_weights_is_not(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig]
) -> None:
    found = {}
    for name in ("itself", "stranger"):
        async with an_engine(checkpoint.directory, speculative=guessers[name]) as (engine, registry):
            sampled = Sampling(temperature=0.9, top_p=0.9, seed=3)
            for sampling in (Sampling(), sampled, Sampling(min_tokens=9, logit_bias=((5, 1.0),))):
                await answer_of(engine, Request("it", PROMPT[:20], 40, 0.0, sampling))
            found[name] = acceptance(registry)
            steps = counted(registry, "step_seconds_count")
            assert counted(registry, "generation_tokens_total") == 120
            if name == "itself":
                assert steps < 120 / 3, "five tokens a step, but for the ends"
    assert found["itself"] > 0.95
    assert found["stranger"] < 0.2


@GUESSERS
async def test_neither_preemption_nor_the_prefix_cache_changes_a_token(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    directory, requests = checkpoint.directory, some_requests()
    plain = await answers(directory, requests, prefix_cache=False)
    page = 2 * 3 * 2 * 16 * 4 * 8  # bytes: keys and values, layers, KV heads, float32 of a head, tokens
    memory = {"ngram": 22 * page, "itself": 2 * 22 * page, "stranger": 4 * 22 * page // 3 + page}[name]
    crowded = {"kv_cache_bytes": memory, "speculative": guessers[name]}
    async with an_engine(directory, **crowded) as (engine, registry):
        assert engine.load().kv_pages_total == 22
        found = await asyncio.gather(*(answer_of(engine, request) for request in requests))
        assert counted(registry, "preemptions_total")
        assert counted(registry, "prefix_cache_hits_total")
    assert [[token.id for token in tokens] for tokens in found] == plain


@GUESSERS
async def test_whoever_hangs_up_whenever_leaves_every_page_and_harms_nobody(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    directory, requests = checkpoint.directory, some_requests()
    plain = await answers(directory, requests)
    chance = random.Random(5)

    async def cut(request: Request) -> None:
        after = chance.randrange(12)
        async with aclosing(engine.submit(replace(request, id=f"{request.id} cut"))) as tokens:
            async for _ in tokens:
                if (after := after - 1) < 0:
                    return

    async with an_engine(directory, speculative=guessers[name]) as (engine, _):
        found, *_ = await asyncio.gather(
            asyncio.gather(*(answer_of(engine, request) for request in requests)), *map(cut, requests)
        )
        await until(lambda: engine.load().running == 0)
        await answer_of(engine, requests[0])  # what was given back is whole: an idle engine checks it
        load = engine.load()
    assert load.kv_pages_free == load.kv_pages_total
    assert [[token.id for token in tokens] for tokens in found] == plain


@GUESSERS
async def test_logprobs_are_those_of_each_token(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    request = Request("it", PROMPT[:40], 24, 0.0, Sampling(logprobs=2), prompt_logprobs=1)

    async def tokens_with(speculative: SpeculativeConfig | None) -> list[Token]:
        async with an_engine(checkpoint.directory, speculative=speculative) as (engine, _):
            return await answer_of(engine, request)

    for plain, guessed in zip(await tokens_with(None), await tokens_with(guessers[name]), strict=True):
        assert guessed.id == plain.id
        assert plain.logprobs is not None
        assert guessed.logprobs is not None
        assert guessed.logprobs.chosen.logprob == pytest.approx(plain.logprobs.chosen.logprob, abs=1e-4)
        assert [one.id for one in guessed.logprobs.top] == [one.id for one in plain.logprobs.top]
        assert len(guessed.prompt_logprobs) == len(plain.prompt_logprobs)


class After:
    """Ends an answer with its n-th token, as a stop string does."""

    def __init__(self, tokens: int) -> None:
        self._left = tokens

    def feed(self, token_id: int) -> bool:
        self._left -= 1
        return self._left == 0


@pytest.mark.parametrize("length", range(1, 9))
async def test_an_answer_may_end_anywhere_among_guesses_that_are_right(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], length: int
) -> None:
    whole = (await answers(checkpoint.directory, [Request("it", PROMPT[:20], 12, 0.0)]))[0]
    async with an_engine(checkpoint.directory, speculative=guessers["itself"]) as (engine, _):
        cut = await answer_of(engine, Request("it", PROMPT[:20], 12, 0.0, stops=After(length)))
        ended = await answer_of(engine, Request("it", PROMPT[:20], length, 0.0))
        assert engine.load().running == 0
    assert [token.id for token in cut] == [token.id for token in ended] == whole[:length]


@pytest.mark.parametrize("name", ["ngram", "itself"])
async def test_an_answer_may_fill_the_context_to_its_last_token(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    """Of 256 tokens, with as many guesses as may be asked for; and answers that leave no room for one."""
    text = PROMPT * 3
    sizes = [(1, 255), (240, 16), (250, 6), (254, 2), (255, 1), (5, 2), (8, 3)]  # prompt, answer
    requests = [Request(str(size), text[: size[0]], size[1], 0.0) for size in sizes]
    found = await answers(checkpoint.directory, requests, speculative=replace(guessers[name], tokens=16))
    assert found == await answers(checkpoint.directory, requests)
    assert [len(answer) for answer in found] == [new for _, new in sizes]


async def test_a_draft_model_catches_up_with_what_was_written_without_it(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig]
) -> None:
    """While two decode nothing is guessed; then one is left, with much that the draft model has not read."""
    length = READ_AT_ONCE * 2 + 10
    requests = [Request("short", PROMPT[:5], length, 0.0), Request("long", PROMPT[:20], length + 80, 0.0)]
    plain = await answers(checkpoint.directory, requests)
    alone = replace(guessers["itself"], max_batch=1)
    async with an_engine(checkpoint.directory, speculative=alone) as (engine, registry):
        found = await asyncio.gather(*(answer_of(engine, request) for request in requests))
        guessed = counted(registry, "speculative_tokens_total")
        share = acceptance(registry)
    assert [[token.id for token in tokens] for tokens in found] == plain
    assert 40 < guessed < 100
    assert share > 0.95


async def test_the_law_decides_where_nobody_does_and_changes_no_token(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig]
) -> None:
    requests = [Request(str(number), PROMPT[number : number + 20], 120, 0.0) for number in range(3)]
    plain = await answers(checkpoint.directory, requests)
    measured = replace(guessers["stranger"], max_batch=None)
    async with an_engine(checkpoint.directory, speculative=measured) as (engine, registry):
        found = await asyncio.gather(*(answer_of(engine, request) for request in requests))
        guesses = counted(registry, "speculative_guesses_total")
    assert [[token.id for token in tokens] for tokens in found] == plain
    assert guesses > 0, "it was tried; whether it is kept is a matter of seconds, and test_guessing.py tells those"


def test_rows_of_one_sequence_read_each_other_whatever_the_threads(checkpoint: Checkpoint) -> None:
    """Compiled attention writes a key and reads those before it in one pass: another thread's may not be there yet."""
    prompt, guess = PROMPT[:40], Guess(16, tuple(range(60, 76)))
    grants = tuple(Grant(0, page, page) for page in range(4))
    fill = Step((a_start(0, prompt),), grants, (Chunk(0, 0, prompt, samples=True),))
    check = Step((), (), (Chunk(0, 40, (), samples=True, guess=guess),))
    found = []
    for kernels in ({"cpu_threads": 3}, {"plain_kernels": True}):
        runner = a_model(checkpoint.directory, **kernels).loaded.runner
        runner.launch(fill).wait()
        found.append([runner.logits(check) for _ in range(20)])
    expected = found[1][0]
    assert expected.shape == (17, 320)
    for logits in found[0]:
        assert (logits - expected).abs().max() < 1e-3


def pairs(model: Model, prompt: tuple[int, ...], sampling: Sampling, seeds: int) -> Counter[tuple[int, ...]]:
    """How often each pair of tokens begins an answer; the second one is the first that is guessed."""
    requests = [asked(str(seed), prompt, 4, replace(sampling, seed=seed)) for seed in range(seeds)]
    return Counter(tuple(answer[:2]) for answer in model.answers({0: requests}).values())


def likelihood(model: Model, prompt: tuple[int, ...], sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Of each pair, by the model itself: its logits, at these three tokens alone."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(2):
        for before, share in [*found.items()]:
            text = (*prompt, *before)
            grants = tuple(Grant(0, page, page) for page in range(2))
            logits = model.loaded.runner.logits(Step((a_start(0),), grants, (Chunk(0, 0, text, samples=True),)))[0]
            shares = (logits[[*THREE]] / sampling.temperature).softmax(0).tolist()
            del found[before]
            found |= {(*before, token): share * each for token, each in zip(THREE, shares, strict=True)}
    return found


@GUESSERS
def test_sampled_tokens_have_the_models_distribution(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig], name: str
) -> None:
    """A bias leaves three tokens, so that each pair of them stood in the prompt: n-grams always guess."""
    prompt, seeds = (3, 3, 4, 4, 5, 5, 3, 5, 4, 3), 600
    sampling = Sampling(temperature=3.0, logit_bias=tuple((token, 100.0) for token in THREE))
    model = a_model(checkpoint.directory, speculative=guessers[name], max_running=seeds, prefix_cache=False)
    expected = likelihood(model, prompt, sampling)
    found = pairs(model, prompt, sampling, seeds)
    assert set(found) <= set(expected)
    likely = [pair for pair, share in expected.items() if share * seeds >= 5]
    distance = sum((found[pair] - seeds * expected[pair]) ** 2 / (seeds * expected[pair]) for pair in likely)
    assert distance < CHI_SQUARE[len(likely) - 1]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"vocab_size": 300}, "has 300 tokens, the model has 320", id="other tokens"),
        pytest.param({"max_position_embeddings": 64}, "was trained for 64 tokens of context", id="a short memory"),
    ],
)
def test_a_draft_model_that_does_not_fit_is_refused_at_load(
    checkpoint: Checkpoint, tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    draft = write_checkpoint(tmp_path, num_hidden_layers=1, **fields).directory
    config = a_config(checkpoint.directory, engine=EngineConfig(speculative=a_draft(draft)))
    with pytest.raises(ModelRefused, match=says):
        load_model(config, on_phase=lambda phase: None)


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        pytest.param(
            '{"model": {"vocab": {"a": 1, "b": 0}}}', "gives tokens other ids than the model's", id="other ids"
        ),
        pytest.param("{", "tokenizer.json is no tokenizer", id="half a file"),
        pytest.param('{"version": "1.0"}', "tokenizer.json is no tokenizer: KeyError", id="no vocabulary"),
        pytest.param('{"model": {}, "added_tokens": [7]}', "tokenizer.json is no tokenizer", id="no token"),
    ],
)
def test_a_draft_model_that_speaks_other_tokens_is_refused_at_load(tmp_path: Path, tokenizer: str, says: str) -> None:
    model, draft = (write_checkpoint(tmp_path / name, num_hidden_layers=1).directory for name in ("model", "draft"))
    (model / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    (draft / "tokenizer.json").write_text(tokenizer)
    config = a_config(model, engine=EngineConfig(speculative=a_draft(draft)))
    with pytest.raises(ModelRefused, match=says):
        load_model(config, on_phase=lambda phase: None)


async def test_it_sleeps_and_wakes_with_both_caches(
    checkpoint: Checkpoint, guessers: dict[str, SpeculativeConfig]
) -> None:
    request = Request("it", PROMPT[:20], 20, 0.0)
    async with an_engine(checkpoint.directory, speculative=guessers["itself"]) as (engine, registry):
        before = await answer_of(engine, request)
        await engine.sleep()
        await engine.wake_up()
        assert [token.id for token in await answer_of(engine, request)] == [token.id for token in before]
        assert acceptance(registry) > 0.9
