"""How close each family's numbers are to transformers': a small slip in them would change few greedy tokens."""

from pathlib import Path

import pytest
import torch
from checkpoints import Checkpoint, write_checkpoint
from families import KINDS
from headrace_server.engine.sequence import Chunk, Grant, Start, Step
from models import a_model
from steps import a_start

TOKENS = tuple(range(3, 103))
START: tuple[Start, ...] = (a_start(1),)
GRANTS: tuple[Grant, ...] = tuple(
    Grant(1, index, page) for index, page in enumerate((9, 2, 12, 4, 11, 0, 7))
)  # pages of 16 tokens


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **KINDS[request.param])


def test_a_prompt_in_pieces(checkpoint: Checkpoint) -> None:
    runner = a_model(checkpoint.directory, page_size=16, max_running=2).loaded.runner
    expected = reference(checkpoint)
    start, grants = START, GRANTS
    for first, last in ((0, 1), (1, 20), (20, 21), (21, 99), (99, 100)):
        [found] = runner.logits(Step(start, grants, (Chunk(1, first, TOKENS[first:last], samples=True),)))
        torch.testing.assert_close(found, expected[last - 1], atol=1e-4, rtol=0)
        start, grants = (), ()  # it has them


@pytest.mark.parametrize("kind", ["mistral: window", "qwen2: window by layer", "qwen3: biases"])
def test_half_precision_stays_near(kind: str, tmp_path: Path) -> None:
    """Not equal: it is the model in that precision. Wrong wiring would be far away."""
    checkpoint = write_checkpoint(tmp_path, **KINDS[kind])
    runner = a_model(checkpoint.directory, "bfloat16", page_size=16, max_running=2).loaded.runner
    [found] = runner.logits(Step(START, GRANTS, (Chunk(1, 0, TOKENS, samples=True),)))
    assert torch.nn.functional.cosine_similarity(found, reference(checkpoint)[-1], dim=0) > 0.99


def reference(checkpoint: Checkpoint) -> torch.Tensor:
    """float32 (tokens, vocab)"""
    with torch.inference_mode():
        logits: torch.Tensor = checkpoint.reference(torch.tensor([TOKENS])).logits[0]
    return logits
