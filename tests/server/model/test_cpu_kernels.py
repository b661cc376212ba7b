"""The compiled kernels against plain torch: the same numbers, whatever the shape, the window and the pages."""

from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.model.cpu.norm import CpuNorm
from headrace_server.model.norm import PlainNorm
from headrace_server.model.projection import Packed, Plain, is_packable
from models import a_model, asked

SHAPES = {
    "every head its own": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "two share one": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "all share one": {"num_attention_heads": 6, "num_key_value_heads": 1, "hidden_size": 96},
    "a narrow head": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 10},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_answers_are_those_of_plain_torch(tmp_path: Path, shape: dict[str, int]) -> None:
    directory = write_checkpoint(tmp_path, **shape).directory
    requests = [asked(str(n), tuple(range(3, 4 + 7 * n)), 20) for n in range(6)]
    arrivals = {0: requests[:3], 4: requests[3:]}
    models = [a_model(directory, page_size=8, max_tokens_per_step=24, plain_kernels=plain) for plain in (True, False)]
    assert models[0].answers(arrivals) == models[1].answers(arrivals)


def test_bfloat16_pages_hold_what_plain_torch_would_hold(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path).directory
    models = [a_model(directory, "bfloat16", plain_kernels=plain) for plain in (True, False)]
    prompt = tuple(range(3, 60))
    caches = []
    for model in models:
        model.answer(prompt, 8)
        caches.append(model.loaded.runner._transformer._attention._cache)
    first = [cache.keys[0, :4].flatten(0, 1)[: len(prompt)] for cache in caches]  # before layers add their rounding
    torch.testing.assert_close(first[0], first[1], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 3, 64, 200])
def test_the_norm(rows: int) -> None:
    x, weight = torch.randn(rows, 96) * 10, torch.rand(96)
    torch.testing.assert_close(CpuNorm(96, 1e-5)(x, weight), PlainNorm(1e-5)(x, weight))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 33, 130])
def test_packed_weights_give_the_products_of_plain_ones(rows: int, biased: bool) -> None:
    assert is_packable(torch.float32), "every wheel of torch for x86-64 and arm64 has oneDNN"
    weight, bias = torch.randn(48, 40), torch.randn(48) if biased else None
    x, residual = torch.randn(rows, 40), torch.randn(rows, 48)
    plain, packed = (layout.projection(weight, bias) for layout in (Plain(), Packed()))
    torch.testing.assert_close(packed(x), plain(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed.added_to(residual, x), plain.added_to(residual, x), atol=1e-4, rtol=1e-4)
    gated = [layout.gated(weight, bias)(x) for layout in (Plain(), Packed())]
    torch.testing.assert_close(gated[1], gated[0], atol=1e-4, rtol=1e-4)
