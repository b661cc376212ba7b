"""The promise of the engine: whoever shares the step, an answer is the one that transformers gives, token for token."""

from pathlib import Path

import pytest
import torch
from checkpoints import LLAMA3_ROPE, Checkpoint, edit_config, greedy, write_checkpoint
from families import KINDS, WINDOW, WINDOWED
from models import a_model, asked

NEW_TOKENS = 24


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **KINDS[request.param])


def some_prompts(*lengths: int) -> list[tuple[int, ...]]:
    dice = torch.Generator().manual_seed(7)
    return [tuple(torch.randint(3, 320, (length,), generator=dice).tolist()) for length in lengths]


def test_alone(checkpoint: Checkpoint) -> None:
    model = a_model(checkpoint.directory)
    for prompt in some_prompts(1, 17, 90):
        assert model.answer(prompt, NEW_TOKENS) == greedy(checkpoint, prompt, NEW_TOKENS)


def test_in_a_mixed_batch_with_chunked_prompts_and_late_arrivals(checkpoint: Checkpoint) -> None:
    model = a_model(checkpoint.directory, max_tokens_per_step=20, max_running=5, page_size=8)
    prompts = some_prompts(5, 60, 1, 33, 8, 90, 2, 17)
    requests = [asked(str(place), prompt, NEW_TOKENS) for place, prompt in enumerate(prompts)]
    arrivals = {0: requests[:3], 2: requests[3:4], 7: requests[4:6], 30: requests[6:]}
    expected = {str(place): greedy(checkpoint, prompt, NEW_TOKENS) for place, prompt in enumerate(prompts)}
    assert model.answers(arrivals) == expected
    assert len({token for answer in expected.values() for token in answer}) > NEW_TOKENS, "the answers say something"


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_that_prompt_and_answer_leave_far_behind(kind: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, **KINDS[kind])
    model = a_model(checkpoint.directory, max_tokens_per_step=31, max_running=2, page_size=8)
    short, long = some_prompts(2, 6 * WINDOW)
    expected = {"short": greedy(checkpoint, short, 6 * WINDOW), "long": greedy(checkpoint, long, 6 * WINDOW)}
    assert (
        model.answers({0: [asked(name, prompt, 6 * WINDOW) for name, prompt in (("short", short), ("long", long))]})
        == expected
    )


def test_a_rope_written_by_older_transformers(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, rope_parameters=LLAMA3_ROPE)
    older = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}
    edit_config(tmp_path, rope_parameters=None, rope_scaling=older, rope_theta=LLAMA3_ROPE["rope_theta"])
    [prompt] = some_prompts(80)
    assert a_model(tmp_path).answer(prompt, NEW_TOKENS) == greedy(checkpoint, prompt, NEW_TOKENS)
