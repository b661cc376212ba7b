"""Memory that runs out in a step is told apart from other faults."""

import pytest
import torch
from headrace_server.model.device import CpuDevice, Work


def test_memory_that_ran_out_is_a_memory_error() -> None:
    greedy = Work(copy_in=lambda: None, compute=lambda: (torch.empty(2**60, dtype=torch.uint8),))
    with pytest.raises(MemoryError, match="allocate"):
        CpuDevice().launch(greedy).wait()


def test_another_fault_stays_what_it_is() -> None:
    wrong = Work(copy_in=lambda: None, compute=lambda: (torch.zeros(2) @ torch.zeros(3),))
    with pytest.raises(RuntimeError) as fault:
        CpuDevice().launch(wrong).wait()
    assert not isinstance(fault.value, MemoryError)
