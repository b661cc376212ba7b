"""A checkpoint directory with a tokenizer, and the tokens of one answer whose text every test knows."""

from pathlib import Path

import pytest
from scripted_runner import ScriptedRunner, always
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer

ANSWER = "God created naïve 你好 😀 and void. "  # characters of one to four bytes


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return directory


@pytest.fixture
def runner() -> ScriptedRunner:
    """Answers ANSWER, over and over."""
    return ScriptedRunner(always(tiny_tokenizer().encode(ANSWER).ids))
