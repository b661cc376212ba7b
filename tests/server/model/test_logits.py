"""How close the numbers behind the tokens are, and that a neighbour's garbage cannot reach them."""

import math

import pytest
import torch
from checkpoints import LLAMA3_ROPE, Checkpoint, write_checkpoint
from headrace_server.engine.sequence import Chunk, Grant, Step
from models import a_model
from steps import a_start

PROMPT = tuple(range(3, 103))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), rope_parameters=LLAMA3_ROPE, attention_bias=True)


def first(slot: int, pages: tuple[int, ...], *chunks: Chunk) -> Step:
    """A step in which the slot starts on those pages."""
    grants = tuple(Grant(slot, index, page) for index, page in enumerate(pages))
    return Step((a_start(slot),), grants, chunks)


def reference(checkpoint: Checkpoint, tokens: int) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = checkpoint.reference(torch.tensor([PROMPT[:tokens]])).logits[0, -1]
    return logits


def test_a_whole_prompt(checkpoint: Checkpoint) -> None:
    runner = a_model(checkpoint.directory).loaded.runner
    [found] = runner.logits(first(0, tuple(range(7)), Chunk(0, 0, PROMPT, samples=True)))
    torch.testing.assert_close(found, reference(checkpoint, 100), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 99])
def test_a_prompt_in_two_chunks_on_scattered_pages(checkpoint: Checkpoint, cut: int) -> None:
    runner = a_model(checkpoint.directory).loaded.runner
    pages = (9, 2, 30, 4, 11, 0, 7)
    assert len(runner.logits(first(3, pages, Chunk(3, 0, PROMPT[:cut], samples=False)))) == 0
    [found] = runner.logits(Step((), (), (Chunk(3, cut, PROMPT[cut:], samples=True),)))
    torch.testing.assert_close(found, reference(checkpoint, 100), atol=1e-4, rtol=0)


def test_padding_and_what_former_owners_left_cannot_be_seen(checkpoint: Checkpoint) -> None:
    """0 * NaN is NaN: one request that overflowed must not reach those who come after it or run beside it."""
    runner = a_model(checkpoint.directory).loaded.runner
    cache = runner._transformer._attention._cache
    for pool in (cache.keys, cache.values):
        pool.fill_(math.nan)
    short, long = first(0, (0,), Chunk(0, 0, PROMPT[:3], True)), first(1, (1, 2, 3), Chunk(1, 0, PROMPT[:40], True))
    found = runner.logits(Step(short.starts + long.starts, short.grants + long.grants, short.chunks + long.chunks))
    torch.testing.assert_close(found[0], reference(checkpoint, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], reference(checkpoint, 40), atol=1e-4, rtol=0)
    for slot, tokens in ((0, 3), (1, 40)):
        runner._slots.tokens[slot, tokens] = PROMPT[tokens]
    found = runner.logits(Step((), (), (Chunk(0, 3, (), samples=True), Chunk(1, 40, (), samples=True))))
    torch.testing.assert_close(found[0], reference(checkpoint, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], reference(checkpoint, 41), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(checkpoint: Checkpoint, dtype: str) -> None:
    """Not equal: it is the model in that precision. Wrong wiring would be far away."""
    runner = a_model(checkpoint.directory, dtype).loaded.runner
    [found] = runner.logits(first(0, tuple(range(7)), Chunk(0, 0, PROMPT, samples=True)))
    expected = reference(checkpoint, 100)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
