"""What a loaded model says about itself."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_config, write_checkpoint
from headrace_server.model.architecture import read_architecture
from headrace_server.model.loading import load_model
from headrace_server.model.weights import count_parameters
from models import a_config, a_model
from peak_of_loading import peak_of_loading


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint")).directory


def test_the_limits_follow_from_the_checkpoint(directory: Path) -> None:
    limits = a_model(directory, max_running=2, page_size=16).loaded.limits
    assert (limits.max_context, limits.vocab_size, limits.eos_token_ids) == (256, 320, (2,))
    assert limits.kv_pages == 2 * 256 // 16, "no more than max_running requests can fill"


def test_a_small_cache_limits_the_context_and_says_so(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    page_bytes = 2 * 3 * 2 * 16 * 16 * 4  # keys and values, layers, KV heads, head_dim, tokens, float32
    limits = a_model(directory, kv_cache_bytes=5 * page_bytes, page_size=16).loaded.limits
    assert (limits.kv_pages, limits.max_context) == (5, 80)
    assert "the KV cache holds 80 tokens, the model was trained for 256" in caplog.text


def test_generation_config_knows_more_ends_of_text(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert a_model(tmp_path).loaded.limits.eos_token_ids == (2, 5)
    (tmp_path / "generation_config.json").unlink()
    edit_config(tmp_path, eos_token_id=9)
    assert a_model(tmp_path).loaded.limits.eos_token_ids == (9,)


def test_the_phases_are_told_in_order(directory: Path) -> None:
    phases: list[str] = []
    load_model(a_config(directory), phases.append)
    assert phases == ["device", "weights", "kv_cache", "kernels"]


def test_a_small_model_computes_in_one_thread_also_in_the_thread_that_serves_it(directory: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    try:
        torch.set_num_threads(2)
        a_model(directory)
        reader = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        reader.start()
        reader.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_warm_up_leaves_no_trace(directory: Path) -> None:
    cold = a_model(directory, max_tokens_per_step=64, max_running=8)
    warm = a_model(directory, max_tokens_per_step=64, max_running=8)
    warm.loaded.runner.warm_up()
    prompt = tuple(range(3, 40))
    assert warm.answer(prompt, 10) == cold.answer(prompt, 10)


def test_warm_up_fits_into_the_smallest_server(directory: Path) -> None:
    a_model(
        directory, max_tokens_per_step=1, max_running=1, kv_cache_bytes=2 * 3 * 2 * 16 * 16 * 4
    ).loaded.runner.warm_up()


MIB = 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "20MB"])
@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_loading_needs_the_weights_and_one_layer(tmp_path: Path, dtype: torch.dtype, shards: str, layout: str) -> None:
    wide: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "initializer_range": 0.02,
    }
    on_disk = write_checkpoint(tmp_path, max_shard_size=shards, **wide)
    layer_on_disk = sum(tensor.nbytes for tensor in on_disk.reference.model.layers[0].parameters())
    weights = count_parameters(read_architecture(tmp_path)) * dtype.itemsize

    assert weights <= peak_of_loading(tmp_path, dtype, layout) <= weights + layer_on_disk + 12 * MIB
