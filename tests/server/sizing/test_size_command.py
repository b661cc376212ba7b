"""`headrace size`, as people call it."""

import argparse
import json
from pathlib import Path

import pytest
from checkpoints import write_checkpoint, write_config
from headrace_server.errors import ModelRefused
from headrace_server.model.cpu.backend import CpuBackend
from headrace_server.model.gpu.backend import GpuBackend
from headrace_server.model.loading import GPU_SHARE
from headrace_server.size_command import CACHE_SHARE, register

FORMATS = [(weights, cache) for weights in ("bfloat16", "int8", "int4") for cache in ("bfloat16", "int8")]
CPU = ("--gpu=cpu", "--memory-gb=8", "--read-gbs=40", "--tflops=0.2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Nothing but a config.json."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 8192}
    write_config(tmp_path, num_hidden_layers=4, vocab_size=512, **sizes)
    return tmp_path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    lines = ({"timestamp": 250 * n, "input_length": 300 + 7 * (n % 9), "output_length": 40} for n in range(400))
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def called(*words: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser)
    options = parser.parse_args(list(map(str, words)))
    return int(options.run(options))


def result(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert called(*words, "--json=-") == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_every_format_gets_a_row(model: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result(capsys, f"--model={model}", "--gpu=h100", f"--trace={trace}", "--gpu-hour-price=2.5")["rows"]
    assert isinstance(rows, list)
    assert [(row["weights"], row["kv_cache"]) for row in rows] == FORMATS
    for row in rows:
        assert row["replicas"] == row["gpus"] == 1
        assert row["cost_per_million_full"] == pytest.approx(2.5 * row["gpu_hours_per_million_full"], rel=1e-3)
        assert row["gpu_hours_per_million_full"] < row["gpu_hours_per_million_trace"]
    assert rows[1]["kv_tokens"] > 1.8 * rows[0]["kv_tokens"]
    assert rows[4]["weights_gb"] < rows[2]["weights_gb"] < rows[0]["weights_gb"]


def test_the_cache_is_what_the_server_takes_on_a_gpu() -> None:
    assert CACHE_SHARE == GPU_SHARE


def test_without_a_price_there_are_only_hours(model: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result(capsys, f"--model={model}", "--gpu=l4", f"--trace={trace}")["rows"]
    assert isinstance(rows, list)
    assert all(row["cost_per_million_trace"] is None and row["gpu_hours_per_million_trace"] > 0 for row in rows)


def test_a_small_model_takes_its_share(
    model: Path, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small").mkdir()
    small = write_config(tmp_path / "small", max_position_embeddings=8192)
    words = (f"--model={model}", *CPU, f"--trace={trace}", "--scale=400", f"--small={small}", "--small-share=0.75")
    rows = result(capsys, *words)["rows"]
    assert isinstance(rows, list)
    alone, together = rows[0], rows[-len(FORMATS)]
    assert together["model"] == f"{model.name} + small"
    assert together["share"] == 1.0
    assert 1 < together["replicas"] < alone["replicas"]
    assert together["expected_tokens_per_s"] == pytest.approx(alone["expected_tokens_per_s"], rel=1e-3)


def test_what_is_not_served_is_what_the_backends_refuse(
    model: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelRefused):
        GpuBackend(16).quantised()
    CpuBackend().quantised()
    for words, refused in ((("--gpu=h100",), True), (CPU, False)):
        rows = result(capsys, f"--model={model}", *words, f"--trace={trace}")["rows"]
        assert isinstance(rows, list)
        assert {row["weights"]: row["not_served"] is not None for row in rows}["int8"] is refused
        assert rows[0]["not_served"] is None


def test_weights_that_do_not_belong_to_the_config_are_refused(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_checkpoint(tmp_path / "model").directory
    write_config(model, num_hidden_layers=9)
    assert called(f"--model={model}", "--gpu=l4", f"--trace={trace}") == 2
    assert "tensors that config.json asks for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("--gpu=cpu", "--read-gbs=40"), "--gpu=cpu needs --memory-gb, --tflops", id="an unknown device"),
        pytest.param(("--gpu=l4", "--small-share=0.5"), "go together", id="half a pair"),
        pytest.param(("--gpu=l4", "--trace=missing.csv"), "missing.csv: No such file", id="no trace"),
        pytest.param(("--gpu=l4", "--model=nowhere"), "nowhere is not a directory", id="no model"),
        pytest.param(("--gpu=l4", "--efficiencies=EMPTY"), "efficiencies.json: cpu: Field required", id="no figures"),
    ],
)
def test_what_cannot_be_told_is_refused(
    model: Path, trace: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = trace.with_name("efficiencies.json")
    empty.write_text("{}")
    given = [word.replace("EMPTY", str(empty)) for word in words]
    assert called(f"--model={model}", f"--trace={trace}", *given) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--slo=soon",), ("--slo=ttft=0",), ("--small-share=1",), ("--utilization=1.1",)])
def test_options_that_mean_nothing_are_refused(model: Path, trace: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        called(f"--model={model}", "--gpu=l4", f"--trace={trace}", *words)


def test_a_load_that_nothing_carries_ends_with_1(model: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(f"--model={model}", *CPU, f"--trace={trace}", "--slo=itl=0.0000001") == 1
    assert "not possible" in capsys.readouterr().out


def test_attained_shares_come_from_the_file_or_the_command_line(
    model: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"--model={model}", "--gpu=l4", f"--trace={trace}")
    shipped, halved = (result(capsys, *words, *more) for more in ((), ("--read-efficiency=0.385",)))
    assert shipped["efficiency"]["read"] == 0.77  # type: ignore[index]
    assert halved["rows"][0]["token_ms"] > 1.5 * shipped["rows"][0]["token_ms"]  # type: ignore[index]
