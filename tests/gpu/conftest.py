import pytest
import torch


@pytest.fixture
def device() -> str:
    assert torch.cuda.is_available(), "no CUDA device; `make test` runs what needs none"
    torch.manual_seed(0)
    return "cuda"
