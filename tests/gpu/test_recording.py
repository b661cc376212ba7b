"""Named ranges on a GPU: in the profiler's trace, and as NVTX, which Nsight Systems shows."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from headrace_server.model.recording import TorchRecorder

pytestmark = pytest.mark.gpu


def test_a_range_is_in_the_trace_and_pushed_as_nvtx(device: str, tmp_path: Path) -> None:
    recorder = TorchRecorder()
    with recorder.range("before"):
        torch.ones(8, device=device)
    recorder.start()
    with patch("torch.cuda.nvtx.range_push", wraps=torch.cuda.nvtx.range_push) as pushed, recorder.range("step"):
        torch.ones(8, device=device).sum().item()
    recorder.stop()
    recorder.save(tmp_path / "trace.json")
    names = [event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert "step" in names
    assert "before" not in names
    assert [call.args[0] for call in pushed.call_args_list] == ["step"]
