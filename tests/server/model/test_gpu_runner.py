"""The whole runner as a GPU has it, interpreted on the CPU: kernels, decode steps at fixed addresses, padding."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from headrace_server.config import SpeculativeMethod
from interpreter import Check, interpreter
from runner_cases import check_guesses, check_pages_in_int8, check_tokens


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Check]:
    with interpreter() as check:
        yield check


def test_tokens_are_those_of_plain_torch(interpreted: Check, tmp_path: Path) -> None:
    """Two query heads share a KV head, heads are normed, and one of two layers has a window."""
    windows = {"use_sliding_window": True, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
    directory = write_checkpoint(tmp_path, "qwen3", num_hidden_layers=2, head_dim=16, **windows).directory
    interpreted(check_tokens, directory, "cpu", 16, 4, 14)


def test_rows_that_check_guesses_read_each_other_as_in_plain_torch(interpreted: Check, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, num_hidden_layers=1).directory
    interpreted(check_guesses, directory, "cpu", 16, SpeculativeMethod.DRAFT)


def test_pages_in_int8_say_what_they_say_to_plain_torch(interpreted: Check, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, num_hidden_layers=2).directory
    interpreted(check_pages_in_int8, directory, "cpu", 16)
