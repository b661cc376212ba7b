"""The command line of `headrace serve`: what it becomes, and what it refuses."""

import argparse
from pathlib import Path

import headrace_server.__main__ as command
import pytest
from checkpoints import write_checkpoint
from headrace_server.errors import ModelRefused
from headrace_server.model.loading import load_model

NEEDED = ["--model", "m", "--name", "n", "--device", "cpu"]


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.register(parser)
    return parser.parse_args([*NEEDED, *words])


def test_what_is_not_said_has_the_engines_defaults() -> None:
    assert command._config(parsed(), None).engine == command.DEFAULTS


def test_every_switch_arrives() -> None:
    words = ["--no-overlap", "--no-prefix-cache", "--plain-kernels", "--check-gathers", "--cpu-threads", "3"]
    engine = command._config(parsed(*words), None).engine
    assert (engine.overlap, engine.prefix_cache, engine.plain_kernels, engine.check_gathers) == (
        False,
        False,
        True,
        True,
    )
    assert engine.cpu_threads == 3


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        pytest.param((), 16, id="CPU"),
        pytest.param(("--device", "cuda"), 256, id="GPU"),
        pytest.param(("--device", "cuda", "--page-size", "64"), 64, id="said"),
    ],
)
def test_a_page_holds_what_the_devices_kernels_want(words: tuple[str, ...], tokens: int) -> None:
    assert command._config(parsed(*words), None).engine.page_size == tokens


@pytest.mark.parametrize(("word", "cores"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("2,1,2", (2, 1))])
def test_cores(word: str, cores: tuple[int, ...]) -> None:
    assert command._config(parsed("--cpu-cores", word), None).engine.cpu_cores == cores


@pytest.mark.parametrize("word", ["", "a", "3-1", "1-", "-1"])
def test_what_is_no_core(word: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="must name"):
        parsed(f"--cpu-cores={word}")


def test_cores_of_others_are_refused_at_load(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = command._config(parsed("--model", str(tmp_path), "--dtype", "float32", "--cpu-cores", "4096"), None)
    with pytest.raises(ModelRefused, match=r"cpu-cores names \[4096\]"):
        load_model(config, on_phase=lambda phase: None)


def test_adapters_and_their_names() -> None:
    lora = command._config(parsed("--lora", "poet=a/b", "--lora=team/clerk=c=d", "--max-lora-rank=16"), None).lora
    assert [(each.name, str(each.directory)) for each in lora.adapters] == [("poet", "a/b"), ("team/clerk", "c=d")]
    assert lora.most_rank == 16


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--lora=a=x", "--lora=a=y"], "'a' is taken"),
        (["--lora=n=x"], "'n' is taken"),
        (["--lora=x"], "give NAME=DIR"),
        (["--lora=.a=x"], "begins with no mark"),
        (["--lora=a=x", "--task=embed"], "--task=generate, not embed"),
        (["--max-lora-rank=0"], "must be at least 1"),
        (["--batch-invariant", "--task=rerank"], "--task=generate, not rerank"),
    ],
)
def test_what_no_adapter_can_be(words: list[str], why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        command._config(parsed(*words), None)


def test_no_bit_of_an_answer_may_depend_on_others() -> None:
    assert command._config(parsed("--batch-invariant"), None).engine.batch_invariant
    assert not command._config(parsed(), None).engine.batch_invariant
