"""`--batch-invariant` with a draft model: no bit tells what was guessed, how well, how long, and beside whom."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.config import SpeculativeConfig, SpeculativeMethod
from headrace_server.request import Request, Sampling
from heard import Heard, at_once, one_by_one
from model_engines import an_engine
from prometheus_client import CollectorRegistry

SIZES = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
PAGE = 2 * 2 * 2 * 24 * 4 * 8  # bytes: keys and values, layers, KV heads, float32 of a head, tokens
ALWAYS = 1000  # requests: whatever is measured
SAMPLINGS = (
    Sampling(logprobs=2),
    Sampling(temperature=1.0, seed=5, logprobs=3),
    Sampling(temperature=0.8, top_k=40, top_p=0.9, seed=6, logprobs=0),
    Sampling(temperature=0.9, seed=7, repetition_penalty=1.2, logprobs=1),  # nobody guesses for this one
    Sampling(temperature=1.2, top_p=0.7, min_p=0.02, seed=8, logit_bias=((9, 3.0), (11, -5.0)), logprobs=20),
    Sampling(min_tokens=6, logprobs=5),
)
REQUESTS = [
    Request(
        id=str(number),
        prompt=tuple(3 + (7 * number + at * (1 + number % 3)) % 300 for at in range(5 + 13 * number % 60)),
        max_new_tokens=8 + 5 * number % 17,
        arrived_at=0.0,
        sampling=SAMPLINGS[number % len(SAMPLINGS)],
        stop_token_ids=frozenset({17, 201, 77}),
        prompt_logprobs=2 if number % 8 == 4 else None,
    )
    for number in range(32)
]
BATCHES = (REQUESTS[:1], REQUESTS[:7], REQUESTS)  # the second and third find what came before in the prefix cache


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model; and draft models of which it is mostly right, right now and then, and hardly ever."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = write_checkpoint(folder / "model", **SIZES)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.reference.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.005)
    model.reference.save_pretrained(folder / "near")
    stranger = write_checkpoint(folder / "stranger", seed=1, num_hidden_layers=1).directory
    return {"model": model.directory, "itself": model.directory, "near": folder / "near", "stranger": stranger}


@pytest.fixture(scope="module")
def alone(directories: dict[str, Path]) -> dict[str, Heard]:
    """Each request by itself, its prompt in one piece, with nothing guessed and nothing found."""

    async def found() -> dict[str, Heard]:
        plain = {"batch_invariant": True, "max_tokens_per_step": 512, "prefix_cache": False}
        async with an_engine(directories["model"], **plain) as (engine, _):
            return await one_by_one(engine, REQUESTS)

    return asyncio.run(found())


GUESSED = {
    "nearly always right": ("itself", {}, {}),
    "right now and then, in chunks": ("near", {"tokens": 7}, {"max_tokens_per_step": 37}),
    "hardly ever right": ("stranger", {}, {}),
    "off above three": ("itself", {"max_batch": 3}, {"max_tokens_per_step": 64}),
    "where it is measured to pay": ("near", {"max_batch": None}, {}),
    "by two threads": ("near", {}, {"cpu_threads": 2}),
    "with few pages": ("near", {}, {"kv_cache_bytes": 2 * 40 * PAGE}),  # half of them are the draft model's
}
ACCEPTED = {"itself": (0.9, 1.0), "near": (0.1, 0.9), "stranger": (0.0, 0.1)}  # share of the guesses


@pytest.mark.parametrize(("draft", "guessing", "settings"), GUESSED.values(), ids=GUESSED.keys())
async def test_neither_guesses_nor_neighbours_chunks_and_the_prefix_cache_change_a_bit(
    directories: dict[str, Path],
    alone: dict[str, Heard],
    draft: str,
    guessing: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    speculative = SpeculativeConfig(SpeculativeMethod.DRAFT, max_batch=ALWAYS, draft_model=directories[draft])
    settings = {"max_tokens_per_step": 512, "speculative": replace(speculative, **guessing)} | settings
    async with an_engine(directories["model"], batch_invariant=True, **settings) as (engine, registry):
        for batch in BATCHES:
            assert await at_once(engine, batch) == {request.id: alone[request.id] for request in batch}
        least, most = ACCEPTED[draft]
        guessed = counted(registry, "speculative_tokens")
        assert least <= counted(registry, "speculative_accepted_tokens") / guessed <= most
        assert counted(registry, "prefix_cache_hits") > 0
        assert (counted(registry, "preemptions") > 0) == ("kv_cache_bytes" in settings)


def counted(registry: CollectorRegistry, name: str) -> float:
    value = registry.get_sample_value(f"headrace_{name}_total")
    assert value is not None
    return value
