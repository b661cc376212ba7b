"""Everything that may be switched on at once: formats, guesses, adapters, grammars, penalties, chunks, preemption.

`--batch-invariant` is the oracle: with it each answer is to the bit the one that the same weights give alone, with
nothing else switched on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from adapters import write_adapter
from checkpoints import Checkpoint, write_checkpoint
from headrace_server.config import (
    AdapterDirectory,
    KvCacheDtype,
    LoraConfig,
    QuantizationConfig,
    SpeculativeConfig,
    SpeculativeMethod,
    WeightFormat,
)
from headrace_server.request import Priority, Request, Sampling
from heard import Heard, at_once, one_by_one
from model_engines import WHOLE, an_engine
from numpy.typing import NDArray

TEXT = tuple(3 + at % 37 for at in range(120))  # it repeats itself, so that there is something to look up
ADAPTERS = ("", "all", "some")
PAGES = 40
SAMPLINGS = (
    Sampling(logprobs=2),
    Sampling(temperature=1.0, logprobs=20),
    Sampling(temperature=0.8, top_k=40, top_p=0.9, min_tokens=9, logprobs=1),
    Sampling(temperature=0.7, repetition_penalty=1.2, presence_penalty=0.5, logprobs=0),
    Sampling(temperature=1.2, logit_bias=((3, 100.0), (4, 100.0), (5, 100.0))),  # pairs that the prompt has
)


class NeverTwice:
    """A grammar of no token twice, of so many in all."""

    def __init__(self, length: int) -> None:
        self._left = length
        self._said: list[int] = []

    @property
    def finished(self) -> bool:
        return self._left == 0

    def accept(self, token_id: int) -> None:
        assert token_id not in self._said
        self._left -= 1
        self._said.append(token_id)

    def fill(self, row: NDArray[np.int32]) -> None:
        row.view(np.uint32)[:] = 2**32 - 1
        for token_id in self._said:
            row.view(np.uint32)[token_id // 32] &= np.uint32(2**32 - 1 - (1 << token_id % 32))


def requests() -> list[Request]:
    """Anew, since a grammar remembers. Some prompts are those of others, and begin at the same time."""
    return [a_request(number) for number in range(24)]


def a_request(number: int) -> Request:
    return Request(
        id=str(number),
        prompt=TEXT[: 6 + 19 * (number // 2) % 80],
        max_new_tokens=10 + 3 * number % 16,
        arrived_at=0.0,
        sampling=replace(SAMPLINGS[number % 5], seed=number),
        stop_token_ids=frozenset({17, 201, 77}),
        prompt_logprobs=1 if number % 7 == 2 else None,
        adapter=ADAPTERS[number % 3],
        priority=Priority.BATCH if number % 6 == 5 else Priority.STANDARD,
        grammar=NeverTwice(12) if number % 4 == 1 else None,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """In what a model and its cache are kept."""

    page: int  # bytes
    weights: QuantizationConfig = WHOLE
    dtype: str = "float32"
    pages: KvCacheDtype = KvCacheDtype.AUTO


A_TOKEN = 2 * 3 * 2  # heads: keys and values, layers, KV heads
INT8, INT4 = QuantizationConfig(WeightFormat.INT8), QuantizationConfig(WeightFormat.INT4, group_size=32)
KEPT = {
    "whole": Kept(A_TOKEN * 64 * 8),
    "bfloat16": Kept(A_TOKEN * 32 * 8, dtype="bfloat16"),
    "int8": Kept(A_TOKEN * 64 * 8, INT8),
    "int4": Kept(A_TOKEN * 64 * 8, INT4),
    "int8 pages": Kept(A_TOKEN * 18 * 8, pages=KvCacheDtype.INT8),
    "int8, int8 pages, bfloat16": Kept(A_TOKEN * 18 * 8, INT8, "bfloat16", KvCacheDtype.INT8),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), intermediate_size=128)


@pytest.fixture(scope="module")
def lora(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> LoraConfig:
    folder = tmp_path_factory.mktemp("adapters")
    return LoraConfig(
        (
            AdapterDirectory("all", write_adapter(folder / "all", checkpoint)),
            AdapterDirectory("some", write_adapter(folder / "some", checkpoint, 6, ("q_proj", "v_proj"), seed=2)),
        )
    )


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint, lora: LoraConfig) -> Callable[[str], dict[str, Heard]]:
    """By the name of what the model is kept in."""
    found: dict[str, dict[str, Heard]] = {}

    async def asked(kept: Kept) -> dict[str, Heard]:
        plain = {"batch_invariant": True, "prefix_cache": False, "kv_cache_dtype": kept.pages}
        served = an_engine(
            checkpoint.directory, kept.weights, dtype=kept.dtype, lora=lora, max_tokens_per_step=512, **plain
        )
        async with served as (engine, _):
            return await one_by_one(engine, requests())

    def of(name: str) -> dict[str, Heard]:
        if name not in found:
            found[name] = asyncio.run(asked(KEPT[name]))
        return found[name]

    return of


@pytest.fixture(scope="module")
def crowded(checkpoint: Checkpoint, lora: LoraConfig) -> Callable[..., dict[str, Heard]]:
    """All at once, in chunks, with few pages and somebody who guesses."""

    async def asked(kept: Kept, guesser: SpeculativeMethod, **settings: Any) -> dict[str, Heard]:
        drafts = guesser is SpeculativeMethod.DRAFT
        speculative = SpeculativeConfig(guesser, max_batch=1000, draft_model=checkpoint.directory if drafts else None)
        memory = (2 if drafts else 1) * PAGES * kept.page
        settings = {"kv_cache_bytes": memory, "kv_cache_dtype": kept.pages, "speculative": speculative} | settings
        served = an_engine(checkpoint.directory, kept.weights, dtype=kept.dtype, lora=lora, **settings)
        async with served as (engine, registry):
            assert engine.load().kv_pages_total == PAGES
            found = await at_once(engine, requests())
            for happened in ("preemptions", "prefix_cache_hits", "speculative_tokens", "speculative_accepted_tokens"):
                assert registry.get_sample_value(f"headrace_{happened}_total"), happened
        return found

    return lambda *words, **settings: asyncio.run(asked(*words, **settings))


GUESSERS = pytest.mark.parametrize("guesser", list(SpeculativeMethod))


@GUESSERS
@pytest.mark.parametrize("name", KEPT)
def test_invariant_each_answer_is_to_the_bit_the_one_it_gets_alone(
    alone: Callable[[str], dict[str, Heard]],
    crowded: Callable[..., dict[str, Heard]],
    name: str,
    guesser: SpeculativeMethod,
) -> None:
    assert crowded(KEPT[name], guesser, batch_invariant=True) == alone(name)


@GUESSERS
def test_not_invariant_the_tokens_are_the_same_and_the_numbers_nearly(
    alone: Callable[[str], dict[str, Heard]], crowded: Callable[..., dict[str, Heard]], guesser: SpeculativeMethod
) -> None:
    found, expected = crowded(KEPT["whole"], guesser), alone("whole")
    for name, answer in expected.items():
        assert (found[name].token_ids, found[name].finish) == (answer.token_ids, answer.finish)
        assert numbers(found[name]) == pytest.approx(numbers(answer), abs=1e-3)


def numbers(answer: Heard) -> list[float]:
    return [one.logprob for chosen, top in (*answer.scores, *answer.prompt_scores) for one in (chosen, *top)]
