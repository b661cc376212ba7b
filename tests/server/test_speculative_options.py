"""The command line of tokens that are guessed ahead: what it becomes, and what it refuses."""

import argparse
from pathlib import Path

import headrace_server.__main__ as command
import pytest
from headrace_server.config import SpeculativeConfig, SpeculativeMethod
from headrace_server.errors import ModelRefused

NEEDED = ["--model", "m", "--name", "n", "--device", "cpu"]
DRAFT = SpeculativeConfig(SpeculativeMethod.DRAFT, draft_model=Path("small"))


def speculative(*words: str) -> SpeculativeConfig | None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.register(parser)
    return command._config(parser.parse_args([*NEEDED, *words]), None).engine.speculative


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(["--speculative=ngram"], SpeculativeConfig(SpeculativeMethod.NGRAM), id="the text itself"),
        pytest.param(["--speculative=draft", "--draft-model=small"], DRAFT, id="a draft model"),
        pytest.param(
            ["--speculative=ngram", "--speculative-tokens=7", "--speculative-max-batch=3"],
            SpeculativeConfig(SpeculativeMethod.NGRAM, 7, 3),
            id="numbers",
        ),
        pytest.param(
            ["--speculative=ngram", "--speculative-max-batch=auto"],
            SpeculativeConfig(SpeculativeMethod.NGRAM),
            id="auto",
        ),
    ],
)
def test_what_is_said_arrives(words: list[str], becomes: SpeculativeConfig | None) -> None:
    assert speculative(*words) == becomes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--speculative=draft"], "--draft-model: --speculative=draft needs one; name its folder"),
        (["--speculative=ngram", "--draft-model=small"], "--draft-model: --speculative=ngram uses none; leave it out"),
        (["--draft-model=small"], "--draft-model: nothing is guessed without --speculative"),
        (["--speculative-tokens=3"], "--speculative-tokens: nothing is guessed without --speculative"),
        (["--speculative-max-batch=auto"], "--speculative-max-batch: nothing is guessed without --speculative"),
        (["--speculative=ngram", "--task=embed"], "--speculative: --task=embed chooses no tokens"),
        (["--speculative=draft", "--draft-model=hf://a/b"], "name its folder with --hub-cache"),
    ],
)
def test_what_fits_not_together_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ModelRefused, match=says):
        speculative(*words)


@pytest.mark.parametrize("word", ["--speculative-tokens=0", "--speculative-tokens=17", "--speculative-max-batch=0"])
def test_numbers_out_of_range_are_refused(word: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="must be"):
        speculative("--speculative=ngram", word)
