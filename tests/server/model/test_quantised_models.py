"""Whole models in fewer bits: the same engine, the same tokens however it runs, and near those of the whole weights."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config, write_checkpoint
from headrace_server.config import QuantizationConfig, WeightFormat
from headrace_server.engine.sequence import Chunk, Grant, Scoring, Start, Step
from headrace_server.errors import ModelRefused
from headrace_server.model.backend import PlainBackend
from headrace_server.model.conversion import convert
from headrace_server.model.gpu.backend import GpuBackend
from headrace_server.model.loading import load_model
from headrace_server.model.quantisation import asked as as_asked
from headrace_server.quantize_command import register
from headrace_server.request import Sampling
from models import Model, a_config, a_model, asked
from safetensors.torch import load_file

INT8 = QuantizationConfig(WeightFormat.INT8)
INT4 = QuantizationConfig(WeightFormat.INT4, group_size=32)
BOTH = pytest.mark.parametrize("how", [INT8, INT4], ids=["int8", "int4"])
FAMILIES = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen2: biases": {"family": "qwen2"},
    "qwen3: norms of heads": {"family": "qwen3", "head_dim": 16},
}


def a_checkpoint(directory: Path, **fields: object) -> Path:
    return write_checkpoint(directory, **({"intermediate_size": 128} | fields)).directory  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def converted(source: Path, target: Path, how: QuantizationConfig) -> Path:
    settled = as_asked(how)
    assert settled is not None
    convert(source, target, settled, lambda part: None)
    return target


@pytest.mark.parametrize("fields", FAMILIES.values(), ids=FAMILIES.keys())
def test_int8_kernels_answer_as_plain_torch(tmp_path: Path, fields: dict[str, object]) -> None:
    source = a_checkpoint(tmp_path, **fields)
    requests = [asked(str(n), tuple(range(3, 4 + 7 * n)), 20) for n in range(6)]
    arrivals = {0: requests[:3], 4: requests[3:]}
    sizes = {"page_size": 8, "max_tokens_per_step": 24}
    models = [a_model(source, quantization=INT8, plain_kernels=plain, **sizes) for plain in (True, False)]
    assert models[0].answers(arrivals) == models[1].answers(arrivals)


@pytest.mark.parametrize("fields", FAMILIES.values(), ids=FAMILIES.keys())
def test_int4_kernels_think_as_plain_torch(tmp_path: Path, fields: dict[str, object]) -> None:
    """Not to the token: both round products to bfloat16, of sums that were added up in another order."""
    source, prompt = a_checkpoint(tmp_path, **fields), tuple(range(3, 120))
    whole = logprobs_of(source, QuantizationConfig(), prompt)
    plain, kernels = (logprobs_of(source, INT4, prompt, plain_kernels=plain) for plain in (True, False))
    assert (kernels - plain).abs().mean() < 0.2 * (plain - whole).abs().mean()


@BOTH
@pytest.mark.parametrize("fields", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_converted_checkpoint_answers_as_one_converted_at_start(
    tmp_path: Path, how: QuantizationConfig, fields: dict[str, object]
) -> None:
    source = a_checkpoint(tmp_path / "in", **fields)
    target = converted(source, tmp_path / "out", how)
    prompt = tuple(range(3, 40))
    at_start, stored = a_model(source, quantization=how), a_model(target)
    assert stored.answer(prompt, 20) == at_start.answer(prompt, 20)
    assert stored.loaded.work == at_start.loaded.work


def test_int8_answers_are_near_those_of_the_whole_weights(directory: Path) -> None:
    prompt = tuple(range(3, 120))
    whole, int8, int4 = (logprobs_of(directory, how, prompt) for how in (QuantizationConfig(), INT8, INT4))
    assert (int8 - whole).abs().mean() < 0.2
    assert (int8 - whole).abs().mean() < (int4 - whole).abs().mean(), "fewer bits are further away"
    assert not torch.equal(int8, whole)


def logprobs_of(
    directory: Path, how: QuantizationConfig, prompt: tuple[int, ...], *, plain_kernels: bool = False
) -> torch.Tensor:
    """Of the prompt's tokens, each after those before it."""
    runner = a_model(directory, quantization=how, plain_kernels=plain_kernels).loaded.runner
    pages = -(-len(prompt) // 16)
    start = Start(0, prompt, len(prompt), Sampling(), frozenset(), queue_wait=0.0)
    grants = tuple(Grant(0, page, page) for page in range(pages))
    step = Step((start,), grants, (Chunk(0, 0, prompt, samples=True, scoring=Scoring(prompt[1:], top=0)),))
    [found] = runner.launch(step).wait().prompt_logprobs
    return torch.tensor([each.chosen.logprob for each in found])


@BOTH
def test_what_is_excluded_stays_as_it_is(directory: Path, tmp_path: Path, how: QuantizationConfig) -> None:
    all_of_it = ("lm_head", "model.layers.0", "model.layers.1", "model.layers.2")
    prompt = tuple(range(3, 40))
    whole = a_model(directory).answer(prompt, 20)
    assert a_model(directory, quantization=replace(how, exclude=all_of_it)).answer(prompt, 20) == whole
    target = converted(directory, tmp_path / "out", replace(how, exclude=("model.layers.1",)))
    kinds = {name: tensor.dtype for path in target.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert kinds["model.layers.1.mlp.down_proj.weight"] == torch.float32
    assert kinds["model.layers.2.mlp.down_proj.weight"] != torch.float32
    assert kinds["lm_head.weight"] != torch.float32


@BOTH
def test_a_converted_checkpoint_is_smaller_and_holds_all_other_files(
    directory: Path, tmp_path: Path, how: QuantizationConfig
) -> None:
    (directory / "tokenizer.json").write_text("{}")
    target = converted(directory, tmp_path / "out", replace(how, exclude=()))
    assert (target / "tokenizer.json").read_text() == "{}"
    sizes = [sum(path.stat().st_size for path in where.glob("*.safetensors")) for where in (directory, target)]
    assert sizes[1] < sizes[0] * (0.5 if how is INT8 else 0.45)  # the embedding stays, a sixth of this model
    (directory / "tokenizer.json").unlink()


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "bitsandbytes", "fp8"])
def test_other_ways_of_quantising_are_refused_with_the_remedy(tmp_path: Path, method: str) -> None:
    source = a_checkpoint(tmp_path)
    edit_config(source, quantization_config={"quant_method": method, "bits": 4})
    says = f"quantised by {method}, which is not read here.*--quantization=int8 or int4.*headrace quantize"
    with pytest.raises(ModelRefused, match=says):
        a_model(source)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "headrace", "weights": "int3"}, "weights is 'int3'; must be one of int8, int4"),
        (
            {"quant_method": "headrace", "weights": "int4", "group_size": 7},
            "a group of 7 weights is not supported; supported: 32, 64, 128, 256",
        ),
        ({"quant_method": "headrace", "weights": "int8"}, "lacks .* tensors .*_scale"),
        ("int8", "quantization_config is 'int8'; must be an object"),
    ],
)
def test_a_converted_checkpoint_that_is_none(tmp_path: Path, config: object, says: str) -> None:
    source = a_checkpoint(tmp_path)
    edit_config(source, quantization_config=config)
    with pytest.raises(ModelRefused, match=says):
        a_model(source)


def test_another_format_than_the_converted_one_is_refused(directory: Path, tmp_path: Path) -> None:
    target = converted(directory, tmp_path / "out", INT8)
    with pytest.raises(ModelRefused, match=r"--quantization=int4: .* was converted to int8; leave the option out"):
        a_model(target, quantization=INT4)
    assert a_model(target, quantization=INT8).answer((3, 4, 5), 2)


def test_what_cannot_be_excluded_is_refused(directory: Path) -> None:
    with pytest.raises(ModelRefused, match=r"mlp cannot be left out of quantisation; name lm_head or whole layers"):
        a_model(directory, quantization=replace(INT8, exclude=("mlp",)))
    with pytest.raises(ModelRefused, match=r"model\.layers\.3 cannot be left out of quantisation: the model has 3"):
        a_model(directory, quantization=replace(INT8, exclude=("model.layers.3",)))


def test_a_gpu_serves_none_of_it_as_yet(directory: Path) -> None:
    with pytest.raises(ModelRefused, match=r"served on a CPU only as yet.*leave out --quantization"):
        load_model(a_config(directory, quantization=INT8), lambda phase: None, GpuBackend(16))


def test_plain_kernels_are_those_of_the_plain_backend(directory: Path) -> None:
    config = a_config(directory, quantization=INT8)
    plain = Model(load_model(config, lambda phase: None, PlainBackend()), config)
    assert plain.answer((3, 4, 5, 6), 12) == a_model(directory, quantization=INT8).answer((3, 4, 5, 6), 12)


class TestTheCommand:
    @staticmethod
    def run(*words: str) -> int:
        parser = argparse.ArgumentParser()
        register(parser)
        options = parser.parse_args(words)
        return int(options.run(options))

    def test_it_converts(self, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(str(directory), str(tmp_path / "out"), "--weights", "int4", "--group-size", "32") == 0
        assert "MiB of weights, of" in capsys.readouterr().err
        assert a_model(tmp_path / "out").answer((3, 4, 5), 2)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--weights", "int4", "--group-size", "33"], "a group of 33 weights is not supported"),
            (["--weights", "int8", "--exclude", "embed"], "embed cannot be left out"),
        ],
    )
    def test_what_it_refuses(
        self, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
    ) -> None:
        assert self.run(str(directory), str(tmp_path / "out"), *words) == 1
        assert says in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_it_overwrites_nothing(self, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "mine").write_text("mine")
        assert self.run(str(directory), str(tmp_path), "--weights", "int8") == 1
        assert "is not empty" in capsys.readouterr().err
        assert self.run(str(directory), str(directory), "--weights", "int8") == 1

    def test_twice_is_refused(self, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        one = converted(directory, tmp_path / "one", INT8)
        assert self.run(str(one), str(tmp_path / "two"), "--weights", "int8") == 1
        assert "was converted already" in capsys.readouterr().err
