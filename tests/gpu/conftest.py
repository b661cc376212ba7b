import inspect

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

HAS_PAGES = "block_table" in inspect.signature(varlen_attn).parameters
collect_ignore = [] if HAS_PAGES else ["test_varlen.py"]


def pytest_report_header() -> str:
    pages = "reads pages" if HAS_PAGES else "knows no pages: test_varlen.py is left out"
    return f"torch {torch.__version__}, whose varlen_attn {pages}"


@pytest.fixture
def device() -> str:
    assert torch.cuda.is_available(), "no CUDA device; `make test` runs what needs none"
    torch.manual_seed(0)
    return "cuda"
