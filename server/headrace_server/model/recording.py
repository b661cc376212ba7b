"""Recording by torch's own profiler: the operations of all threads, the GPU's kernels, and our named ranges."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

_NOWHERE: AbstractContextManager[object] = nullcontext()


@contextmanager
def _both(name: str) -> Iterator[None]:
    with record_function(name), torch.cuda.nvtx.range(name):
        yield


class TorchRecorder:
    """Of what the process does between `start` and `stop`, which one thread has to call: the profiler crashes else."""

    def __init__(self) -> None:
        self._recording = False
        self._profile: profile | None = None

    def start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        # On a CPU the device is a thread of its own, and without this its operations would be missing.
        threads = _ExperimentalConfig(profile_all_threads=True)
        self._profile = profile(activities=activities, experimental_config=threads)
        self._profile.start()
        self._recording = True

    def stop(self) -> None:
        self._recording = False
        if self._profile is None:
            raise AssertionError("a recording was stopped that nobody had started. This is a bug.")
        self._profile.stop()

    def range(self, name: str) -> AbstractContextManager[object]:
        """On a GPU the profiler shows it beside the kernels, and so does Nsight Systems, which reads NVTX."""
        if not self._recording:
            return _NOWHERE
        return _both(name) if torch.cuda.is_available() else record_function(name)

    def save(self, path: Path) -> None:
        if self._profile is None:
            raise AssertionError("a recording was to be saved, and there is none. This is a bug.")
        self._profile.export_chrome_trace(str(path))
        self._profile = None
