"""Decode steps as a GPU replays them, with plain torch: at fixed addresses, padded, choosing inside or after."""

import re
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.config import EngineConfig, SpeculativeConfig, SpeculativeMethod, page_size_for
from headrace_server.engine.sequence import Chunk, Grant, Step
from headrace_server.errors import ModelRefused
from headrace_server.model.backend import backend_for
from headrace_server.model.cache import KvCache
from headrace_server.model.gpu.attention import prompt_attention
from headrace_server.model.gpu.backend import GpuBackend
from headrace_server.request import Sampling
from runner_cases import CapturedPlain, a_captured_model, check_overlap, check_padding
from steps import a_start


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=2).directory


def test_the_loop_answers_the_same_with_captured_steps_and_overlap(directory: Path) -> None:
    check_overlap(directory, "cpu", CapturedPlain(), 8)


@pytest.mark.parametrize("method", list(SpeculativeMethod))
def test_captured_steps_that_check_guesses_choose_the_same(directory: Path, method: SpeculativeMethod) -> None:
    """Of two tokens each and few requests, so that some of the steps are small enough to be captured ones."""
    draft = directory if method is SpeculativeMethod.DRAFT else None
    guesses = SpeculativeConfig(method, tokens=1, max_batch=1000, draft_model=draft)
    check_overlap(directory, "cpu", CapturedPlain(), 8, speculative=guesses)


def test_padding_changes_no_page_that_somebody_may_own(directory: Path) -> None:
    check_padding(directory, "cpu", CapturedPlain(), 8)


def test_who_checks_gathers_captures_nothing(directory: Path) -> None:
    """A graph cannot ask whether what it read was written."""
    runner = a_captured_model(directory, "cpu", CapturedPlain(), 8, check_gathers=True).loaded.runner
    assert runner._decode is None


@pytest.mark.parametrize(
    ("page_size", "dtype", "head_dim", "says"),
    [
        pytest.param(256, torch.bfloat16, 128, "varlen_attn$", id="what torch reads"),
        pytest.param(128, torch.bfloat16, 128, "a multiple of 256 tokens, they have 128", id="smaller pages"),
        pytest.param(256, torch.float32, 128, r"torch.bfloat16 and torch.float16 only", id="full precision"),
        pytest.param(256, torch.float16, 20, "no kernel for heads of 20", id="an odd head"),
    ],
)
def test_who_reads_prompts_follows_from_pages_and_numbers(
    page_size: int, dtype: torch.dtype, head_dim: int, says: str
) -> None:
    pool = torch.empty(1, 2, page_size, 1, head_dim, dtype=dtype, device="meta")
    _, why = prompt_attention(KvCache(pool, pool))
    assert re.search(says, why)


def test_a_page_that_kernels_cannot_divide_by_is_refused_at_load() -> None:
    with pytest.raises(ModelRefused, match="--page-size 24 is no power of two"):
        backend_for(torch.device("cuda"), EngineConfig(page_size=24))
    GpuBackend(page_size_for("cuda"))


def test_what_a_step_chose_is_not_the_next_steps(directory: Path) -> None:
    """The next one may be computed before the host has copied what this one left at its fixed address."""
    runner = a_captured_model(directory, "cpu", CapturedPlain(), 8).loaded.runner
    start = a_start(1, sampling=Sampling(temperature=1.0, seed=1))
    fill = Step((start,), (Grant(1, 0, 4),), (Chunk(1, 0, (5, 6), samples=True),))
    first, second = (Step((), (), (Chunk(1, at, (), samples=True),)) for at in (2, 3))
    runner.launch(fill).wait()
    launched = [runner.launch(step) for step in (first, second)]
    found = [outcome.wait().token_ids[0] for outcome in reversed(launched)]
    assert found == runner._slots.tokens[1, [4, 3]].tolist()
    assert found[0] != found[1]
