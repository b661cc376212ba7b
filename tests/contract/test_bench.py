"""bench/ measures what it says: the common format, the comparison of the answers, the floor, the checkpoints."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from headrace_server.sizing.roofline import decode_seconds, prompt_seconds
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import engine
import host_step
import make_checkpoint
import sizing
from comparison.figures import Load, Measured, agreeing, idle_share, latencies, row
from comparison.floor import Shape, Speeds, floor_seconds
from comparison.process import Command, SideBroken, SideProcess
from comparison.wire import Answers, Work

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "examples" / "models" / "scripture-1m"
FIGURES = {
    "name",
    "requests",
    "prompt_tokens",
    "output_tokens",
    "output_tokens_per_s",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "inter_token_p50_ms",
    "inter_token_p99_ms",
    "load_s",
    "idle_share",
    "share_of_floor",
}


def test_headrace_alone_is_measured_from_end_to_end() -> None:
    command = [sys.executable, "bench/engine.py", "--model", str(SHIPPED), "--requests", "1,3", "--prompt", "8"]
    more = ["--output", "4", "--rounds", "1", "--peers", "", "--json", "-"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"machine", "work", "rows"}
    assert [(found["name"], found["requests"]) for found in result["rows"]] == [("headrace", 1), ("headrace", 3)]
    for found in result["rows"]:
        assert set(found) >= FIGURES
        assert found["agreeing_requests"] == found["requests"]
        assert 0 <= found["idle_share"] < 1
        assert found["output_tokens_per_s"] > 0
        whole = 1000 * found["requests"] * found["output_tokens"] / found["output_tokens_per_s"]  # ms, of the one round
        assert 0 < found["ttft_p50_ms"] <= found["ttft_p95_ms"] < whole
        assert found["load_s"] > 0


def test_fewer_bits_are_measured_beside_float32() -> None:
    command = [sys.executable, "bench/economics.py", "--model", str(SHIPPED), "--modes", "float32;int8, kv-int8"]
    more = ["--requests", "2", "--output", "4", "--rounds", "1", "--no-quality", "--json", "-"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, fewer = json.loads(done.stdout)["rows"]
    assert (whole["name"], fewer["name"]) == ("float32", "int8, kv-int8")
    assert whole["times_float32"] == 1.0
    assert fewer["weights_mib"] < 0.3 * whole["weights_mib"]
    assert fewer["kv_bytes_per_token"] == whole["kv_bytes_per_token"] * (32 + 2) / (32 * 4)
    assert all(row["decode_tokens_per_s"] > 0 and row["resident_mib"] > 0 for row in (whole, fewer))


def test_guessed_tokens_are_measured_beside_float32() -> None:
    command = [sys.executable, "bench/economics.py", "--model", str(SHIPPED), "--modes", "ngram;draft"]
    more = ["--quality", str(SHIPPED), "--requests", "2", "--rounds", "1", "--json", "-"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plain, *guessed = json.loads(done.stdout)["rows"]
    assert (plain["name"], [row["name"] for row in guessed]) == ("float32", ["ngram", "draft"])
    assert plain["acceptance"] is None
    for found in guessed:
        assert found["token_agreement"] == 1.0
        assert found["steps"] < plain["steps"]
        assert 0 < found["acceptance"] <= 1
        assert found["times_float32"] > 0


def test_what_a_server_attains_is_found_again_in_what_it_did() -> None:
    """Of a server that does just what the arithmetic says."""
    truth, machine = sizing.Attained(0.8, 0.6, 0.001, 0.0005), Speeds(read=40e9, multiply=60e9)
    models = [sizing.Model.read(name, SHIPPED.with_name(name)) for name in ("scripture-1m", "scripture-5m")]
    did = [
        sizing.Seen(
            machine,
            prompt_seconds(model.work, truth.of(machine), sizing.LONG),
            decode_seconds(model.work, truth.of(machine), 1, sizing.PROMPT + sizing.ANSWER / 2) - truth.token_overhead,
            tuple((machine, model.tokens_per_second(truth.of(machine), load)) for load in sizing.LOADS),
        )
        for model in models
    ]
    found = sizing.attained(*zip(models, did, strict=True))
    assert found.read == pytest.approx(truth.read, rel=0.01)
    assert found.multiply == pytest.approx(truth.multiply, rel=0.01)
    assert found.overhead == pytest.approx(truth.overhead, rel=0.01)
    assert found.token_overhead == pytest.approx(truth.token_overhead, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--peers", "hf,tgi"], "names tgi; known: headrace-sync, hf, hf-generate, vllm"),
        (["--requests", "4,0"], "is 0; must be a whole number above 0"),
        (["--model", "nowhere"], "no config.json there; bench/make_checkpoint.py writes a checkpoint"),
        (["--prompt", "1000", "--output", "64"], "are 1064 tokens; max_position_embeddings is 1024"),
        (
            ["--peers", "vllm", "--vllm-python", "/nowhere/python"],
            "--vllm-python /nowhere/python: there is no such file",
        ),
        (["--peers", "vllm", "--vllm-python", ""], "give its Python as --vllm-python or HEADRACE_VLLM_PYTHON"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_VLLM_PYTHON", raising=False)
    with pytest.raises(SystemExit) as refused:
        engine.planned(engine.parsed(["--model", str(SHIPPED), *arguments]))
    assert told in f"{refused.value} {capsys.readouterr().err}"


def test_every_side_gets_memory_for_all_that_runs_together_and_new_prompts_each_turn() -> None:
    plan = engine.planned(engine.parsed(["--model", str(SHIPPED), "--requests", "1,3", "--prompt", "8,300"]))
    assert [str(load) for load in plan.loads] == ["1 x (8 + 64)", "1 x (300 + 64)", "3 x (8 + 64)", "3 x (300 + 64)"]
    assert plan.settings.max_requests == 3
    assert plan.settings.max_context == 364
    assert plan.settings.kv_cache_bytes == 3 * 512 * (2 * 3 * 2 * 32) * 4
    load = plan.loads[-1]
    assert plan.work(load, 1) == plan.work(load, 1) != plan.work(load, 2)


def test_a_side_that_dies_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    plan = engine.planned(engine.parsed(["--model", str(SHIPPED)]))
    with (
        SideProcess(Command("broken", sys.executable, "no_such_module"), plan.settings, tmp_path, {}) as side,
        pytest.raises(SideBroken, match=r"broken ended with status 1 instead of answering.*\n.*no_such_module"),
    ):
        side.answer(Work(((1,),), 1))


RIGHT = Answers(0.0, ((5, 6, 7),), None, 1.0, margins=(((1, 0.5), (2, 0.0004), (3, 0.5)),))


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ((5, 6, 7), 1),
        ((5, 2, 9), 1),  # a tie, and from there on its own way
        ((1, 6, 7), 0),  # the second choice, and not close
        ((5, 3, 7), 0),  # where there was a tie, but not of this token
        ((5, 6), 0),
    ],
)
def test_answers_agree_unless_the_oracle_was_sure(tokens: tuple[int, ...], count: int) -> None:
    assert agreeing(replace(RIGHT, tokens=(tokens,)), RIGHT) == count


def test_latencies_are_over_all_requests_of_all_rounds() -> None:
    one = Answers(10.0, ((1, 2, 3),), ((10.1, 10.2, 10.4),), 10.4, busy=0.3)
    other = Answers(20.0, ((1, 2, 3),), ((20.3, 20.4, 20.5),), 20.6, busy=0.45)
    assert latencies([one, other]) == {
        "ttft_p50_ms": 100.0,
        "ttft_p95_ms": 300.0,
        "inter_token_p50_ms": 100.0,
        "inter_token_p99_ms": 200.0,
        "inter_token_max_ms": 200.0,
    }
    assert idle_share([one, other]) == 0.25
    silent = replace(one, times=None, busy=None)
    assert set(latencies([silent]).values()) == {None}
    assert idle_share([silent]) is None


def test_ratios_are_of_neighbouring_turns() -> None:
    def side(name: str, *seconds: float) -> Measured:
        rounds = [Answers(0.0, ((1,) * 10,), None, taken) for taken in seconds]
        return Measured(name, Load(1, 5, 10), load_seconds=2.0, rounds=rounds)

    ours = side("headrace", 1.0, 10.0, 1.0)  # a busy moment in the second turn
    theirs = row(side("peer", 2.0, 20.0, 4.0), ours, floor=0.4)
    assert theirs["headrace_times_as_fast"] == 2.0
    assert theirs["output_tokens_per_s"] == 2.5
    assert theirs["share_of_floor"] == 0.1


def test_the_floor_is_the_slower_of_reading_and_multiplying() -> None:
    shape = Shape(
        layer_parameters=900, head_parameters=100, embedding_parameters=100, kv_values=10, attention_width=20,
        window=64, max_context=64, vocabulary=50, bytes_per_value=4,
    )  # fmt: skip
    weights, cached = 4 * 1000, 4 * 10
    by_reading = Speeds(read=1.0, multiply=1e12)
    assert floor_seconds(shape, by_reading, requests=2, prompt=8, output=3) == pytest.approx(
        weights + (weights + 2 * 9 * cached) + (weights + 2 * 10 * cached)
    )
    by_multiplying = Speeds(read=1e12, multiply=1.0)
    prefill = 2 * (2 * 900 * 8 + 2 * 100 + 4 * 20 * 36)  # a token sees itself and those before it: 1 + 2 + ... + 8
    decode = [2 * 1000 * 2 + 4 * 20 * 2 * context for context in (9, 10)]
    assert floor_seconds(shape, by_multiplying, requests=2, prompt=8, output=3) == pytest.approx(prefill + sum(decode))
    sliding = replace(shape, window=4)
    assert floor_seconds(sliding, by_reading, requests=2, prompt=8, output=2) == pytest.approx(
        weights + weights + 2 * 4 * cached
    )


def test_the_shape_of_a_checkpoint_holds_its_parameters() -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    norms = sum(tensor.numel() for name, tensor in model.named_parameters() if "norm" in name)
    assert Shape.read(SHIPPED, "float32").parameters == sum(one.numel() for one in model.parameters()) - norms


@pytest.fixture(scope="module", params=make_checkpoint.FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    write(directory, request.param)
    return directory


def write(directory: Path, family: str, seed: int = 3, **fields: Any) -> None:
    config = make_checkpoint.config_of(family, "1m", {"num_hidden_layers": 1, **fields})
    make_checkpoint.write(directory, config, torch.float32, seed)


def test_transformers_loads_a_random_checkpoint_of_each_family(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model(torch.tensor([[3, 4, 5]])).logits.isfinite().all()
    config = AutoConfig.from_pretrained(checkpoint)
    assert config.num_hidden_layers == 1
    assert config.dtype == torch.float32


def test_its_tokenizer_has_a_text_for_each_id_and_ids_for_each_text(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert len(tokenizer) == AutoConfig.from_pretrained(checkpoint).vocab_size
    assert tokenizer.decode(tokenizer.encode("Straße, 東京")) == "Straße, 東京"
    texts = [tokenizer.decode([number]) for number in range(260, len(tokenizer))]
    assert len(set(texts)) == len(texts)


def test_equal_seeds_write_equal_weights(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        write(tmp_path / name, "qwen2", seed)
    first, second, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "other")
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"layers": 2}, "--set layers: the config of llama has no such field"), ({"vocab_size": 100}, "at least 259")],
)
def test_a_shape_that_cannot_be_is_refused(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=told):
        write(tmp_path, "llama", **fields)


def test_the_host_step_is_timed_in_parts() -> None:
    found = host_step.measured(sequences=4, context=64, steps=30)
    assert 0 < found["step_p50_ms"] <= found["step_p99_ms"]
    assert all(0 < found[f"{part}_p50_ms"] < found["step_p99_ms"] for part in ("plan", "pack", "commit"))
