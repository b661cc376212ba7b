"""torch's paged attention reads our pages as our own kernel does. Before version 2.12 torch had no pages."""

import pytest
import torch
from headrace_server.model.kernels.paged_attention import attend_paged_in_torch
from headrace_server.model.kernels.varlen_attention import attend_varlen
from kernel_cases import Sequences, a_step, equal
from torch.nn.attention import SDPBackend, sdpa_kernel

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("backend", [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], ids=lambda b: b.name)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Sequences((1,) * 3, (1, 8191, 300), 32, 8, 128, 256, room=32768), id="answers"),
        pytest.param(Sequences((512, 1, 77), (512, 300, 4000), 32, 8, 128, 256), id="prompts and an answer"),
    ],
)
def test_queries_see_what_is_before_them(device: str, case: Sequences, backend: SDPBackend) -> None:
    step = a_step(case, torch.bfloat16, device)
    with sdpa_kernel(backend):
        equal(attend_varlen(*step), attend_paged_in_torch(*step))


def test_a_window_is_counted_as_ours(device: str) -> None:
    case = Sequences((1, 40), (5000, 4200), 32, 8, 128, 256, window=4096)
    step = a_step(case, torch.bfloat16, device)
    equal(attend_varlen(*step, case.window), attend_paged_in_torch(*step, case.window))
