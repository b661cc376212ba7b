"""The models in examples/ answer as transformers says, on text they know. A model that is not there is a failure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Checkpoint, greedy
from models import a_model, asked
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

MODELS = Path(__file__).parents[3] / "examples" / "models"
NEW_TOKENS = 40
TEXTS = (
    "In the beginning",
    "And he said unto them, ",
    "The LORD is my shepherd; I shall not want.",
    "Now these are the generations of the sons of Noah, Shem, Ham, and Japheth: and unto them were sons born " * 3,
    "A",
)


@pytest.fixture(scope="module", params=["scripture-5m", "scripture-1m"])
def shipped(request: pytest.FixtureRequest) -> Checkpoint:
    directory = MODELS / request.param
    reference: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    reference.eval()
    return Checkpoint(directory, reference)


def test_every_answer_equals_transformers_alone_and_together(shipped: Checkpoint) -> None:
    model = a_model(shipped.directory, max_tokens_per_step=48, max_running=4)
    tokenizer = Tokenizer.from_file(str(shipped.directory / "tokenizer.json"))
    prompts = {text: tuple(tokenizer.encode(text).ids) for text in TEXTS}
    expected = {text: greedy(shipped, prompt, NEW_TOKENS) for text, prompt in prompts.items()}
    assert {text: model.answer(prompt, NEW_TOKENS) for text, prompt in prompts.items()} == expected

    requests = [asked(text, prompt, NEW_TOKENS) for text, prompt in prompts.items()]
    assert model.answers({0: requests[:2], 3: requests[2:4], 9: requests[4:]}) == expected
