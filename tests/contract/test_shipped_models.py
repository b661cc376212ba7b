"""The models in examples/ are what their card says: files, sizes, one tokenizer, and the recorded perplexity."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parents[2] / "examples" / "models"
GOLDEN = json.loads((MODELS / "golden.json").read_text())
NAMES = sorted(GOLDEN["models"])
FILES = {
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluate() -> Any:
    spec = importlib.util.spec_from_file_location("evaluate", MODELS / "evaluate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_target_and_a_draft_are_shipped() -> None:
    sizes = {name: GOLDEN["models"][name]["parameters"] for name in NAMES}
    assert 4_500_000 < sizes["scripture-5m"] < 6_000_000
    assert 800_000 < sizes["scripture-1m"] < 1_300_000
    assert sum(file.stat().st_size for file in MODELS.rglob("*.safetensors")) < 15_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_model_folder_holds_safetensors_and_no_pickle(name: str) -> None:
    assert {file.name for file in (MODELS / name).iterdir()} == FILES


def test_both_share_one_tokenizer() -> None:
    assert len({(MODELS / name / "tokenizer.json").read_bytes() for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_perplexity_on_the_golden_set_is_the_recorded_one(evaluate: Any, name: str) -> None:
    measured, recorded = evaluate.measure(MODELS / name, evaluate.golden_texts()), GOLDEN["models"][name]
    assert measured["perplexity"] == pytest.approx(recorded["perplexity"], rel=0.01)
    assert measured["tokens"] == recorded["tokens"]
