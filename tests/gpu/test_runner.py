"""The whole runner on a GPU: tokens of plain torch on a CPU, decode steps captured, and a host that never waits."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoints import Checkpoint, write_checkpoint
from headrace_server.config import SpeculativeMethod, page_size_for
from headrace_server.engine.sequence import Chunk, Grant, Step
from headrace_server.model.gpu.backend import GpuBackend
from headrace_server.request import Request
from runner_cases import (
    SAMPLINGS,
    a_captured_model,
    check_guesses,
    check_overlap,
    check_padding,
    check_pages_in_int8,
    check_tokens,
    served,
)
from steps import a_start

pytestmark = pytest.mark.gpu
PAGE = page_size_for("cuda")
WINDOWS = {"use_sliding_window": True, "sliding_window": 13, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": {},
    "mistral, a window": {"family": "mistral", "sliding_window": 13},
    "qwen2, biases": {"family": "qwen2"},
    "qwen3, a norm of each head, a window in one layer": {"family": "qwen3", "head_dim": 16, **WINDOWS},
}
HEAD = {"num_hidden_layers": 2, "head_dim": 64, "max_position_embeddings": 1024}  # as torch's kernels want it


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **HEAD)


@pytest.mark.parametrize("page_size", [16, PAGE])
@pytest.mark.parametrize("fields", FAMILIES.values(), ids=FAMILIES.keys())
def test_tokens_are_those_of_plain_torch_on_a_cpu(
    device: str, tmp_path: Path, fields: dict[str, object], page_size: int
) -> None:
    directory = write_checkpoint(tmp_path, num_hidden_layers=2, **fields).directory
    check_tokens(directory, device, page_size, 30, 90)


@pytest.mark.parametrize("method", list(SpeculativeMethod))
def test_rows_that_check_guesses_read_each_other_as_on_a_cpu(
    device: str, checkpoint: Checkpoint, method: SpeculativeMethod
) -> None:
    check_guesses(checkpoint.directory, device, PAGE, method)


def test_pages_in_int8_say_what_they_say_on_a_cpu(device: str, checkpoint: Checkpoint) -> None:
    check_pages_in_int8(checkpoint.directory, device, PAGE)


def test_overlap_and_capture_change_no_token(device: str, checkpoint: Checkpoint) -> None:
    check_overlap(checkpoint.directory, device, GpuBackend(PAGE), PAGE)


def test_padding_changes_no_byte_that_somebody_may_own(device: str, checkpoint: Checkpoint) -> None:
    check_padding(checkpoint.directory, device, GpuBackend(PAGE), PAGE)


def test_the_loop_never_waits_for_the_device(device: str, checkpoint: Checkpoint) -> None:
    """But for the event of the step before. Requests of every kind arrive, are filled in, decode and leave."""
    model = a_captured_model(checkpoint.directory, device, GpuBackend(PAGE), PAGE)
    requests = [
        Request(f"{turn} {n}", tuple(range(3, 20 + n)), 12, 0.0, sampling, prompt_logprobs=1 if n == 2 else None)
        for turn in range(2)
        for n, sampling in enumerate(SAMPLINGS)
    ]
    with waiting_is_an_error():
        for overlap in (False, True):
            asyncio.run(served(model, requests, overlap))


def test_what_waits_is_found(device: str) -> None:
    """The proof above is worth what this finds."""
    there = torch.ones(1, device=device)
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchronizing"):
        there.item()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(device: str, checkpoint: Checkpoint, dtype: str) -> None:
    """A prompt in two pieces, then an answer. Where torch can, its own kernel reads the prompt."""
    runner = a_captured_model(checkpoint.directory, device, GpuBackend(PAGE), PAGE, dtype).loaded.runner
    tokens = tuple(range(3, 15))
    with torch.inference_mode():
        expected = checkpoint.reference(torch.tensor([tokens])).logits[0]
    start, grants = (a_start(1),), (Grant(1, 0, 0),)
    for first, last in ((0, 7), (7, 11), (11, 12)):
        [found] = runner.logits(Step(start, grants, (Chunk(1, first, tokens[first:last], samples=True),)))
        assert torch.nn.functional.cosine_similarity(found.cpu(), expected[last - 1], dim=0) > 0.99
        start, grants = (), ()


def test_all_sizes_are_captured_within_five_seconds(device: str, tmp_path: Path) -> None:
    """Of 32 layers, for up to 64 requests; the kernels are compiled before."""
    directory = write_checkpoint(tmp_path, num_hidden_layers=32).directory
    runner = a_captured_model(directory, device, GpuBackend(PAGE), PAGE, max_running=64, max_tokens_per_step=64)
    torch.cuda.synchronize()
    began = time.perf_counter()
    runner.loaded.runner.capture()
    torch.cuda.synchronize()
    assert time.perf_counter() - began < 5


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
