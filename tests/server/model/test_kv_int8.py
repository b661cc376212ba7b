"""Keys and values in 8 bits: more tokens in the same bytes, and the same answers however the engine runs."""

from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint, write_config
from families import WINDOW
from headrace_server.config import EngineConfig, KvCacheDtype
from headrace_server.model.architecture import read_architecture
from headrace_server.model.cache import bytes_per_token, empty_cache, in_int8, pages_that_fit
from hypothesis import given
from hypothesis import strategies as st
from models import a_model, asked

INT8 = KvCacheDtype.INT8
PROMPT = tuple(range(3, 120))
SHAPES = {
    "every head its own": {"num_key_value_heads": 4},
    "two share one": {},
    "a narrow head": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 10},
    "norms of heads": {"family": "qwen3", "head_dim": 16},
    "a window": {"family": "mistral", "sliding_window": WINDOW},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint")).directory


@pytest.mark.parametrize(("head_dim", "times"), [(64, 1.9), (128, 1.9), (256, 1.9), (32, 1.88)])
def test_the_same_bytes_hold_nearly_twice_the_tokens(tmp_path: Path, head_dim: int, times: float) -> None:
    shape = read_architecture(write_config(tmp_path, head_dim=head_dim, max_position_embeddings=100_000))
    config, memory = EngineConfig(max_running=64), 2**30
    whole = pages_that_fit(shape, config, torch.bfloat16, memory)
    assert pages_that_fit(shape, config, torch.int8, memory) >= times * whole


def test_the_cache_takes_what_its_tokens_are_said_to_take(directory: Path) -> None:
    shape, config = read_architecture(directory), EngineConfig(page_size=8)
    cache = empty_cache(shape, config, 9, torch.device("cpu"), torch.int8, heads_apart=True)
    assert cache.scales is not None
    taken = sum(tensor.nbytes for tensor in (cache.keys, cache.values, *cache.scales))
    assert taken == bytes_per_token(shape, torch.int8) * 8 * (9 + 1)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=8, max_size=8))
def test_what_is_kept_is_within_half_a_step(row: list[float]) -> None:
    x = torch.tensor([row])
    values, scales = in_int8(x)
    assert values.abs().max() <= 127
    off = (values.float() * scales.float().unsqueeze(-1) - x).abs()
    step = x.abs().max() / 127
    # The scale is rounded itself, so that the largest value may be a little beyond 127 steps.
    assert (off <= 0.51 * step * 1.004 + x.abs().max() * 2**-8 + 1e-30).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_kernel_answers_as_plain_torch(tmp_path: Path, shape: dict[str, object]) -> None:
    directory = write_checkpoint(tmp_path, **shape).directory  # type: ignore[arg-type]
    requests = [asked(str(n), tuple(range(3, 4 + 7 * n)), 20) for n in range(6)]
    arrivals = {0: requests[:3], 4: requests[3:]}
    sizes = {"page_size": 8, "max_tokens_per_step": 24, "kv_cache_dtype": INT8}
    models = [a_model(directory, plain_kernels=plain, **sizes) for plain in (True, False)]
    assert models[0].answers(arrivals) == models[1].answers(arrivals)


def test_how_a_prompt_is_cut_into_chunks_changes_no_token(directory: Path) -> None:
    found = {
        tuple(a_model(directory, kv_cache_dtype=INT8, max_tokens_per_step=size).answer(PROMPT, 20))
        for size in (7, 32, 200)
    }
    assert len(found) == 1


def test_a_cache_that_slept_holds_what_comes_after(directory: Path) -> None:
    model = a_model(directory, kv_cache_dtype=INT8)
    before = model.answer(PROMPT, 12)
    model.loaded.runner.sleep()
    model.loaded.runner.wake_up()
    assert model.answer(PROMPT, 12) == before
